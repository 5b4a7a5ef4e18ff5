//! Publishers, subscribers and those who mean no good: what each may rely on.

mod weights_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use spo_core::weights::wire::{FrameKind, HEADER_BYTES, Header, Request};
use spo_core::weights::{CHUNK_ELEMENTS, DType, Manifest, ShardInfo, Snapshot, TensorData, state_hash};
use spo_core::weights::{WeightPublisher, WeightShard, WeightSubscriber};
use spo_core::{Error, Interrupt, Result};
use weights_support::{Fault, Proxy, TOKEN, bytes_of, content, fetch, publish, publisher};

fn shard<'a>(name: &str, shape: &[u64], offset: u64, data: &'a [u8]) -> WeightShard<'a> {
    WeightShard { name: name.into(), dtype: DType::Float32, shape: shape.into(), offset, data }
}

fn fetch_from(publishers: &[WeightPublisher], version: u64) -> Result<Snapshot> {
    let addresses: Vec<_> = publishers.iter().map(WeightPublisher::address).collect();
    fetch(&addresses, version, 20_000)
}

fn fetch_into(publisher: &WeightPublisher, memory: &[u8]) -> Result<Snapshot<Vec<u8>>> {
    let subscriber = WeightSubscriber::new(vec![publisher.address().into()], TOKEN.into(), Duration::from_secs(20))?;
    let give = |name: &str, dtype, elements| {
        assert_eq!((name, dtype, elements), ("w", DType::Float32, 2));
        Ok(memory.to_vec())
    };
    subscriber.fetch_into(4, None, None, Interrupt::never(), give)
}

#[test]
fn tensors_arrive_in_memory_of_the_callers_and_it_must_be_of_their_size() {
    let publisher = publisher(0, 1, 1);
    publisher.publish(4, &[shard("w", &[2], 0, &[1, 2, 3, 4, 5, 6, 7, 8])], Interrupt::never()).unwrap();
    let snapshot = fetch_into(&publisher, &[9; 8]).unwrap();
    assert_eq!(snapshot.tensors[0].data, [1, 2, 3, 4, 5, 6, 7, 8]);
    let error = fetch_into(&publisher, &[9; 7]).unwrap_err().to_string();
    assert!(error.contains("7 bytes for tensor \"w\", which has 8"), "{error}");
}

fn proof(token: &[u8], role: &str, nonces: [&[u8]; 2]) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(token).unwrap();
    [b"spo weights ", role.as_bytes(), nonces[0], nonces[1]].iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// A connection that has proved that it knows `token`, or has been refused.
fn authenticated(publisher: &WeightPublisher, token: &[u8]) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(publisher.address()).unwrap();
    let mut greeting = [0; 40];
    stream.read_exact(&mut greeting).unwrap();
    let ours = proof(token, "subscriber", [&greeting[8..], &[7; 32]]);
    let answer = [&greeting[..8], &[7; 32], &ours].concat();
    stream.write_all(&answer).unwrap();
    let mut verdict = [0; 33];
    stream.read_exact(&mut verdict).unwrap();
    (stream, verdict[0])
}

fn read_header(stream: &mut TcpStream) -> Header {
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    Header::decode(&bytes).unwrap()
}

#[test]
fn tensors_arrive_in_shape_and_type_also_where_a_rank_holds_nothing_of_them() {
    let floats: Vec<u8> = (0..6u8).flat_map(|number| f32::from(number).to_le_bytes()).collect();
    let publishers: Vec<_> = (0..3).map(|rank| publisher(rank, 3, 1)).collect();
    let parts = [0..8, 8..24, 24..24];
    for (publisher, part) in publishers.iter().zip(parts) {
        let offset = part.start as u64 / 4;
        let shards = [shard("w", &[3, 2], offset, &floats[part]), shard("empty", &[0, 5], 0, &[])];
        publisher.publish(4, &shards, Interrupt::never()).unwrap();
    }
    let snapshot = fetch_from(&publishers, 4).unwrap();
    assert_eq!(snapshot.version, 4);
    let [w, empty] = &snapshot.tensors[..] else { panic!("{snapshot:?}") };
    assert_eq!((w.name.as_str(), &w.shape[..]), ("w", &[3, 2][..]));
    assert_eq!(w.data, TensorData::Float32(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!((empty.name.as_str(), &empty.shape[..]), ("empty", &[0, 5][..]));
    assert_eq!(empty.data, TensorData::Float32(vec![]));
}

#[test]
fn shards_that_do_not_cover_a_tensor_exactly_once_are_refused() {
    let data = [0; 24];
    let whole = shard("w", &[6], 0, &data);
    let cases: [(WeightShard<'_>, WeightShard<'_>, &str); 5] = [
        (shard("w", &[6], 0, &data[..8]), shard("w", &[6], 3, &data[..12]), "no rank holds elements 2 to 3"),
        (shard("w", &[6], 0, &data[..8]), shard("w", &[6], 2, &data[..12]), "no rank holds elements 5 to 6"),
        (shard("w", &[6], 0, &data[..16]), shard("w", &[6], 3, &data[..12]), "two ranks hold elements 3 to 4"),
        (whole.clone(), whole.clone(), "two ranks hold elements 0 to 6"),
        (whole.clone(), shard("w", &[2, 3], 0, &[]), "[6] on one rank and float32 [2, 3] on rank 1"),
    ];
    for (first, second, message) in cases {
        let publishers = [publisher(0, 2, 1), publisher(1, 2, 1)];
        for (publisher, shard) in publishers.iter().zip([first, second]) {
            publisher.publish(1, &[shard], Interrupt::never()).unwrap();
        }
        let error = fetch_from(&publishers, 1).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn two_addresses_of_one_rank_are_refused() {
    let publishers = [publisher(1, 2, 1), publisher(1, 2, 1)];
    publishers.iter().for_each(|publisher| publish(publisher, 1, &[1, 2], 0..2));
    let error = fetch_from(&publishers, 1).unwrap_err();
    assert!(error.to_string().contains("two addresses belong to rank 1"), "{error}");
}

#[test]
fn four_subscribers_get_every_version_whole_while_the_publisher_goes_on() {
    const LENGTH: usize = 1_500_000;
    let publishers = [publisher(0, 2, 2), publisher(1, 2, 2)];
    let publish_all = |version: u64| {
        let full = content(version, LENGTH);
        publish(&publishers[0], version, &full, 0..600_000);
        publish(&publishers[1], version, &full, 600_000..LENGTH);
    };
    publish_all(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| follow(&publishers))).collect();
        (2..=12).for_each(publish_all);
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() >= 1));
    });

    fn follow(publishers: &[WeightPublisher]) -> usize {
        let (mut version, mut fetched) = (1, 0);
        while version < 12 {
            match fetch_from(publishers, version) {
                Ok(snapshot) => {
                    assert!(bytes_of(&snapshot) == content(version, LENGTH), "version {version}");
                    fetched += 1;
                    version += 1;
                }
                Err(Error::VersionGone { newest, .. }) => version = newest,
                Err(error) => panic!("version {version}: {error}"),
            }
        }
        fetched
    }
}

#[test]
fn subscribers_that_never_read_slow_neither_the_trainer_nor_the_others() {
    let publisher = publisher(0, 1, 1);
    let full = content(1, 16 << 20);
    publish(&publisher, 1, &full, 0..full.len());
    let sleepers: Vec<_> = (0..20)
        .map(|_| {
            let (mut stream, _) = authenticated(&publisher, TOKEN);
            stream.write_all(&Request::Fetch { version: 1, first_chunk: 0 }.encode()).unwrap();
            stream
        })
        .collect();
    let strangers: Vec<_> = (0..20).map(|_| TcpStream::connect(publisher.address()).unwrap()).collect();
    let started = Instant::now();
    for version in 2..6 {
        publish(&publisher, version, &full, 0..full.len());
        assert!(bytes_of(&fetch(&[publisher.address()], version, 20_000).unwrap()) == full);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop((sleepers, strangers));
}

#[test]
fn a_version_too_old_to_be_kept_in_memory_is_taken_from_those_who_read_too_slowly() {
    let publisher = publisher(0, 1, 1);
    let full = content(1, 32 << 20);
    publish(&publisher, 1, &full, 0..full.len());
    let (mut slow, _) = authenticated(&publisher, TOKEN);
    slow.write_all(&Request::Fetch { version: 1, first_chunk: 0 }.encode()).unwrap();
    let manifest = read_header(&mut slow);
    assert_eq!(manifest.kind, FrameKind::Manifest);
    slow.read_exact(&mut vec![0; manifest.length]).unwrap();
    // Two versions may be on their way out at once, so each of two other slow readers pins one more.
    let pinned: Vec<_> = (2..5)
        .map(|version| {
            publish(&publisher, version, &full, 0..full.len());
            let (mut other, _) = authenticated(&publisher, TOKEN);
            other.write_all(&Request::Fetch { version, first_chunk: 0 }.encode()).unwrap();
            read_header(&mut other);
            other
        })
        .collect();
    let last = loop {
        let header = read_header(&mut slow);
        slow.read_exact(&mut vec![0; header.length]).unwrap();
        if header.kind != FrameKind::Chunk {
            break header.kind;
        }
    };
    assert_eq!(last, FrameKind::Gone);
    drop(pinned);
}

#[test]
fn garbage_and_wrong_requests_end_only_their_own_connection() {
    let publisher = publisher(0, 1, 1);
    let full = content(1, 1000);
    publish(&publisher, 1, &full, 0..1000);
    for seed in 0..40 {
        let mut stream = TcpStream::connect(publisher.address()).unwrap();
        let _ = stream.write_all(&content(seed, 20 + seed as usize * 10)); // it may hang up in the middle
    }
    for seed in 0..40 {
        let (mut stream, verdict) = authenticated(&publisher, TOKEN);
        assert_eq!(verdict, 1);
        stream.write_all(&content(seed, 32)).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "a request of garbage got an answer");
    }
    let (mut stream, _) = authenticated(&publisher, TOKEN);
    stream.write_all(&Request::Fetch { version: 1, first_chunk: u64::MAX }.encode()).unwrap();
    assert_eq!(read_header(&mut stream).kind, FrameKind::Manifest);
    assert_eq!(bytes_of(&fetch(&[publisher.address()], 1, 20_000).unwrap()), full);
}

#[test]
fn a_stranger_is_told_nothing_but_no() {
    let publisher = publisher(0, 1, 1);
    publish(&publisher, 1, &content(1, 1000), 0..1000);
    let (mut stream, verdict) = authenticated(&publisher, b"guess");
    assert_eq!(verdict, 2);
    let _ = stream.write_all(&Request::Fetch { version: 1, first_chunk: 0 }.encode());
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
}

#[test]
fn a_publisher_that_does_not_know_the_token_is_not_believed() {
    let impostor = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = impostor.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = impostor.accept().unwrap();
        stream.write_all(b"SPOWGT\x00\x01").unwrap();
        stream.write_all(&[1; 32]).unwrap();
        stream.read_exact(&mut [0; 72]).unwrap();
        stream.write_all(&[1; 33]).unwrap();
    });
    let error = fetch(&[address], 1, 20_000).unwrap_err();
    assert!(error.to_string().contains("does not know the token"), "{error}");
    thread.join().unwrap();
}

/// A publisher that knows the token and answers every fetch with `frames`; returns what the subscriber says to it.
fn fetch_from_forger(frames: &[(Header, &[u8])]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer: Vec<u8> = frames.iter().flat_map(|(header, payload)| [&header.encode(), *payload].concat()).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(&[&b"SPOWGT\x00\x01"[..], &[1; 32]].concat()).unwrap();
            let mut hello = [0; 72];
            stream.read_exact(&mut hello).unwrap();
            let ours = proof(TOKEN, "publisher", [&[1; 32], &hello[8..40]]);
            stream.write_all(&[&[1], &ours[..]].concat()).unwrap();
            stream.read_exact(&mut [0; 32]).unwrap();
            let _ = stream.write_all(&answer); // it hangs up at what it does not like
        }
    });
    fetch(&[address], 1, 20_000).unwrap_err().to_string()
}

#[test]
fn data_with_right_checksums_in_the_wrong_place_are_refused() {
    let chunk = content(1, 2 * CHUNK_ELEMENTS);
    let info = ShardInfo {
        name: "w".into(),
        dtype: DType::BFloat16,
        shape: vec![2 * CHUNK_ELEMENTS as u64],
        offset: 0,
        count: 2 * CHUNK_ELEMENTS as u64,
    };
    let manifest = Manifest { instance: [0; 16], version: 1, rank: 0, world_size: 1, shards: vec![info] }.encode();
    let frame =
        |index, state_hash, payload| (Header { index, state_hash, ..Header::of(FrameKind::Chunk, payload) }, payload);
    let begin = (Header::of(FrameKind::Manifest, &manifest), &manifest[..]);
    let good = [frame(0, state_hash(&chunk), &chunk), frame(1, state_hash(&chunk), &chunk)];
    let end = (Header::of(FrameKind::End, &[9; 16]), &[9; 16][..]);
    let mut swapped = chunk.clone();
    swapped.swap(10, 5000);
    let wrong_place = frame(0, state_hash(&chunk), &swapped[..]);
    for (frames, message) in [
        (vec![begin, wrong_place], "chunk 0 with a wrong state hash"),
        (vec![begin, good[1]], "chunk 1 of 524288 bytes instead of chunk 0"),
        (vec![begin, frame(0, state_hash(&chunk[1..]), &chunk[1..])], "chunk 0 of 524287 bytes instead of chunk 0"),
        (vec![begin, good[0], good[1], end], "a version with a wrong state hash"),
        (vec![begin, end], "End frame where Chunk was due"),
    ] {
        let error = fetch_from_forger(&frames);
        assert!(error.contains(&format!("sent damaged data: {message}")), "{error}");
    }
}

#[test]
fn something_that_is_no_publisher_is_named_at_once() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
    });
    let error = fetch(&[address], 1, 20_000).unwrap_err();
    assert!(error.to_string().contains(&format!("{address} is no weight publisher")), "{error}");
    thread.join().unwrap();
}

#[test]
fn an_interrupt_ends_a_stalled_fetch_at_once() {
    let publisher = publisher(0, 1, 1);
    let full = content(1, 1 << 20);
    publish(&publisher, 1, &full, 0..full.len());
    let proxy = Proxy::new(publisher.address(), &[Fault::Stall(1000)]);
    let timeout = Duration::from_secs(100);
    let subscriber = WeightSubscriber::new(vec![proxy.address.to_string()], TOKEN.into(), timeout).unwrap();
    let asked = AtomicBool::new(false);
    let started = Instant::now();
    let interrupt = || asked.swap(true, Ordering::Relaxed);
    let error = subscriber.fetch(1, None, None, Interrupt::new(&interrupt)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_interrupted_publish_leaves_the_kept_versions() {
    let publisher = publisher(0, 1, 2);
    publish(&publisher, 1, &[1, 2], 0..2);
    let error = publisher.publish(2, &[shard("w", &[1], 0, &[0; 4])], Interrupt::new(&|| true)).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(publisher.versions(), [1]);
}

#[test]
fn closing_a_publisher_takes_a_moment_even_with_clients_that_sleep() {
    let publisher = publisher(0, 1, 1);
    publish(&publisher, 1, &content(1, 8 << 20), 0..8 << 20);
    let (mut sleeper, _) = authenticated(&publisher, TOKEN);
    sleeper.write_all(&Request::Fetch { version: 1, first_chunk: 0 }.encode()).unwrap();
    let silent = TcpStream::connect(publisher.address()).unwrap();
    let started = Instant::now();
    publisher.close();
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(silent);
}
