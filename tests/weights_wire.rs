//! The parsers of the wire: what is encoded is read back, and nothing that arrives can make them panic or allocate.

use proptest::prelude::*;
use spo_core::weights::wire::{FrameKind, HEADER_BYTES, Header, MAX_CHUNK_BYTES, REQUEST_BYTES, Request};
use spo_core::weights::{DType, Manifest, ShardInfo};

fn shard() -> impl Strategy<Value = ShardInfo> {
    let shape = prop::collection::vec(0u64..50, 0..5);
    (".{1,20}", any::<bool>(), shape, any::<u64>(), any::<u64>()).prop_map(|(name, float, shape, a, b)| {
        let full = shape.iter().product::<u64>();
        let offset = a % (full + 1);
        let dtype = if float { DType::Float32 } else { DType::BFloat16 };
        ShardInfo { name, dtype, shape, offset, count: b % (full - offset + 1) }
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let shards = prop::collection::vec(shard(), 0..20);
    (any::<[u8; 16]>(), any::<u64>(), 0u32..8, 1u32..8, shards).prop_map(|(instance, version, rank, more, shards)| {
        Manifest { instance, version, rank, world_size: rank + more, shards }
    })
}

/// Makes the checksum over the first 28 bytes right, so that what lies behind it is tested too.
fn sealed(mut bytes: [u8; 32]) -> [u8; 32] {
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn a_manifest_is_read_back(manifest in manifest()) {
        prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn a_manifest_cut_anywhere_is_refused(manifest in manifest(), cut in any::<prop::sample::Index>()) {
        let bytes = manifest.encode();
        prop_assert!(Manifest::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_damaged_manifest_is_refused_or_still_sound(
        manifest in manifest(),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let mut encoded = manifest.encode();
        let start = at.index(encoded.len());
        let end = encoded.len().min(start + bytes.len());
        encoded[start..end].copy_from_slice(&bytes[..end - start]);
        if let Ok(read) = Manifest::decode(&encoded) {
            prop_assert_eq!(read.encode(), encoded);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_a_manifest(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(read) = Manifest::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_request_is_read_back(version in any::<u64>(), first_chunk in any::<u64>()) {
        let patches = Request::FetchPatches { version, base: first_chunk, first_patch: version };
        for request in [Request::Fetch { version, first_chunk }, Request::Identify, patches] {
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn any_sealed_bytes_are_a_request_that_encodes_alike_or_refused(
        kind in 0u8..5, zeros in 0usize..3, mut bytes in any::<[u8; REQUEST_BYTES]>()
    ) {
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes[28 - 8 * zeros..28].fill(0);
        if let Ok(request) = Request::decode(&sealed(bytes)) {
            prop_assert_eq!(request.encode(), sealed(bytes));
        }
    }

    #[test]
    fn a_header_is_read_back(index in any::<u64>(), state_hash in any::<u64>(), length in 0..=MAX_CHUNK_BYTES) {
        let header = Header { kind: FrameKind::Chunk, length, index, state_hash, payload_crc: 7 };
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn no_header_lets_a_length_beyond_its_cap_through(kind in 0u8..9, mut bytes in any::<[u8; HEADER_BYTES]>()) {
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        if let Ok(header) = Header::decode(&sealed(bytes)) {
            let cap = match header.kind {
                FrameKind::Manifest => 64 << 20,
                FrameKind::Chunk => 1 << 20,
                FrameKind::Patch => 1 << 30,
                _ => 16,
            };
            prop_assert!(header.length <= cap);
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed(index in any::<u64>(), bit in 0usize..256) {
        let header = Header { kind: FrameKind::Chunk, length: 5, index, state_hash: 1, payload_crc: 2 };
        let mut bytes = header.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::decode(&bytes).is_err());
        let mut bytes = Request::Fetch { version: index, first_chunk: 3 }.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Request::decode(&bytes).is_err());
    }
}

#[test]
fn a_manifest_with_impossible_numbers_is_refused() {
    let shard = |shape: &[u64], offset, count| ShardInfo {
        name: "w".into(),
        dtype: DType::Float32,
        shape: shape.into(),
        offset,
        count,
    };
    let with = |rank, world_size, shards| Manifest { instance: [0; 16], version: 1, rank, world_size, shards };
    let cases = [
        (with(0, 1, vec![shard(&[1 << 60, 1 << 60], 0, 0)]), "too many elements"),
        (with(0, 1, vec![shard(&[1 << 39], 0, 1)]), "too many elements"),
        (with(0, 1, vec![shard(&[8], 4, 5)]), "do not fit"),
        (with(0, 1, vec![shard(&[8], u64::MAX, 2)]), "do not fit"),
        (with(0, 1, vec![shard(&[1; 17], 0, 1)]), "17 dimensions"),
        (with(1, 1, vec![]), "manifest of rank 1 of 1"),
        (with(0, 1 << 17, vec![]), "manifest of rank 0 of 131072"),
    ];
    for (manifest, message) in cases {
        let error = Manifest::decode(&manifest.encode()).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    let mut many = with(0, 1, vec![]).encode();
    many[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Manifest::decode(&many).unwrap_err().contains("4294967295 shards"));
}
