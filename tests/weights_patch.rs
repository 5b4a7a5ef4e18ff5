//! Patches: whatever changed, the target becomes the new state bit for bit, or stays the old one.

use proptest::prelude::*;
use spo_core::weights::CHUNK_ELEMENTS;
use spo_core::weights::apply;
use spo_core::weights::patch::{self, Patch};
use spo_core::{Interrupt, Result};

fn encode_patch(old: &[u16], new: &[u16], hashes: Option<&[u64]>) -> Result<Patch> {
    patch::encode_patch(old, new, hashes, Interrupt::never())
}

/// In place; makes sure that the hashes are those of the new state, and that an error leaves the target alone.
fn apply_patch(target: &mut [u16], bytes: &[u8]) -> Result<u64> {
    apply_from(target, bytes, None)
}

fn apply_from(target: &mut [u16], bytes: &[u8], hashes: Option<&[u64]>) -> Result<u64> {
    let before = target.to_vec();
    let applied = apply::apply_patch(target, bytes, hashes, Interrupt::never());
    match &applied {
        Ok(applied) => assert_eq!(applied.hashes, chunk_hashes(target)),
        Err(_) => assert!(target == before),
    }
    applied.map(|applied| applied.changes)
}

fn chunk_hashes(data: &[u16]) -> Vec<u64> {
    patch::chunk_hashes(data, Interrupt::never()).unwrap()
}

/// A generator of uniform numbers (xorshift64*), the same for every run of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn patterns(&mut self, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.next() as u16).collect()
    }
}

/// Rounds to the nearest bfloat16, ties to even.
fn bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// float32 masters of a layer before and after an AdamW step, as bfloat16.
fn adam_step(elements: usize, learning_rate: f64, seed: u64) -> (Vec<u16>, Vec<u16>) {
    let mut random = Random(seed);
    let mut pair = || {
        let master = (random.normal() * 0.05) as f32;
        // Late in training, momentum over root of the second moment is about normal with a deviation below 1.
        let step = (learning_rate * 0.5 * random.normal()) as f32;
        (bfloat16(master), bfloat16(master - step))
    };
    (0..elements).map(|_| pair()).unzip()
}

/// What a patch must do, whatever the states.
fn check(old: &[u16], new: &[u16]) -> usize {
    let patch = encode_patch(old, new, None).unwrap();
    let hashes = chunk_hashes(old);
    let with_hashes = encode_patch(old, new, Some(&hashes)).unwrap();
    assert_eq!(with_hashes.bytes, patch.bytes);
    assert_eq!(patch.hashes, chunk_hashes(new));
    let changes = old.iter().zip(new).filter(|(old, new)| old != new).count() as u64;
    assert_eq!(patch.changes, changes);
    let mut target = old.to_vec();
    assert_eq!(apply_patch(&mut target, &patch.bytes).unwrap(), changes);
    assert!(target == new);
    let mut target = old.to_vec();
    assert_eq!(apply_from(&mut target, &patch.bytes, Some(&hashes)).unwrap(), changes);
    assert!(target == new);
    patch.bytes.len()
}

#[test]
fn states_of_every_density_and_awkward_length_are_patched_exactly() {
    let mut random = Random(7);
    for elements in [0, 1, 3, 31, 33, 1000, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, 2 * CHUNK_ELEMENTS + 17] {
        let old = random.patterns(elements);
        assert!(check(&old, &old) < 100 + elements / CHUNK_ELEMENTS);
        for one_in in [1, 2, 3, 10, 100, 5000] {
            let mut touched = old.clone();
            let mut stepped = old.clone();
            for place in 0..elements {
                if random.next().is_multiple_of(one_in) {
                    touched[place] = random.next() as u16;
                    stepped[place] = old[place].wrapping_add(1);
                }
            }
            check(&old, &touched);
            check(&old, &stepped);
        }
    }
}

#[test]
fn chunks_that_stay_are_sparse_or_dense_follow_one_another_in_every_order() {
    let mut random = Random(17);
    // Every pair of kinds stands side by side somewhere, and each kind is first and last once.
    for kinds in ["0012210200112", "1", "2", "10", "20", "01", "02", "2110"] {
        let old = random.patterns(kinds.len() * CHUNK_ELEMENTS - 5);
        let mut new = old.clone();
        for (chunk, kind) in new.chunks_mut(CHUNK_ELEMENTS).zip(kinds.bytes()) {
            let one_in = match kind {
                b'0' => continue,
                b'1' => 1000,
                _ => 2,
            };
            chunk.iter_mut().filter(|_| random.next().is_multiple_of(one_in)).for_each(|pattern| *pattern ^= 1);
        }
        check(&old, &new);
    }
}

#[test]
fn a_chunk_takes_the_smallest_coding_that_fits_it() {
    let mut random = Random(8);
    let old = random.patterns(CHUNK_ELEMENTS);
    let raw = CHUNK_ELEMENTS * 2;
    let other = random.patterns(CHUNK_ELEMENTS);
    assert!(check(&old, &other) < raw + 200, "noise costs no more than itself");
    let all_stepped: Vec<u16> = old.iter().map(|pattern| pattern ^ 1).collect();
    assert!(check(&old, &all_stepped) < raw / 100, "a regular change of everything costs next to nothing");
    let half: Vec<u16> = old.iter().map(|pattern| pattern ^ (random.next() & 1) as u16).collect();
    println!("half {}", check(&old, &half));
    assert!(check(&old, &half) < CHUNK_ELEMENTS * 3 / 8, "a coin's throw an element costs little more than its bit");
}

#[test]
fn a_step_at_the_papers_learning_rate_costs_at_most_14_bits_a_change() {
    let (old, new) = adam_step(8 << 20, 6e-8, 9);
    let bytes = check(&old, &new);
    let changes = old.iter().zip(&new).filter(|(old, new)| old != new).count();
    let share = changes as f64 / old.len() as f64;
    assert!((2e-4..2e-3).contains(&share), "{share} of the weights changed");
    let bits = bytes as f64 * 8.0 / changes as f64;
    println!("{:.4}% changed, {bits:.2} bits a change", share * 100.0);
    assert!(bits <= 14.0, "{bits} bits a change");
}

#[test]
fn signed_zeros_infinities_and_nans_are_patterns_like_all_others() {
    let special = [0x0000, 0x8000, 0x0001, 0x8001, 0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7fff, 0x3f80];
    for first in special {
        for second in special {
            check(&[first, second, 0x3f80], &[second, first, 0x3f80]);
        }
    }
}

#[test]
fn a_wrong_base_is_refused_and_left_alone() {
    let (old, new) = adam_step(CHUNK_ELEMENTS + 100, 1e-5, 10);
    let patch = encode_patch(&old, &new, None).unwrap();
    for place in [0, 77, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 99] {
        let mut wrong = old.clone();
        wrong[place] ^= 1;
        let before = wrong.clone();
        let error = apply_patch(&mut wrong, &patch.bytes).unwrap_err();
        assert!(error.to_string().contains("not the state that the patch was made from"), "{error}");
        assert!(wrong == before);
    }
    let mut swapped = old.clone();
    swapped.swap(5, CHUNK_ELEMENTS + 5);
    assert!(apply_patch(&mut swapped, &patch.bytes).is_err());
    let error = apply_patch(&mut old[1..].to_vec(), &patch.bytes).unwrap_err();
    assert!(error.to_string().contains("the target has"), "{error}");
    let mut applied_twice = new.clone();
    assert!(apply_patch(&mut applied_twice, &patch.bytes).is_err());
    assert!(applied_twice == new);
}

#[test]
fn kept_hashes_of_another_state_are_refused() {
    let (old, new) = adam_step(1000, 1e-4, 11);
    let patch = encode_patch(&old, &new, None).unwrap();
    let mut target = old.clone();
    let error = apply_from(&mut target, &patch.bytes, Some(&chunk_hashes(&new))).unwrap_err();
    assert!(error.to_string().contains("not the state that the patch was made from"), "{error}");
    let applied = apply_from(&mut target, &patch.bytes, Some(&[1, 2]));
    for wrong in [applied.err(), encode_patch(&old, &new, Some(&[])).err()] {
        assert!(wrong.unwrap().to_string().contains("chunk hashes for 1000 elements"));
    }
}

#[test]
fn a_patch_with_any_byte_cut_or_bit_flipped_is_refused() {
    let mut random = Random(12);
    let old = random.patterns(2000);
    let mut new = old.clone();
    (0..100).for_each(|_| new[random.next() as usize % 2000] = random.next() as u16);
    let patch = encode_patch(&old, &new, None).unwrap().bytes;
    let mut target = old.clone();
    for cut in 0..patch.len() {
        assert!(apply_patch(&mut target, &patch[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..patch.len() * 8 {
        let mut damaged = patch.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(apply_patch(&mut target, &damaged).is_err(), "bit {bit}");
    }
    assert!(target == old);
}

/// Makes the checksum right again, so that what lies behind it is tested.
fn resealed(mut patch: Vec<u8>) -> Vec<u8> {
    if let Some((body, crc)) = patch.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(body).to_le_bytes();
    }
    patch
}

#[test]
fn what_was_changed_before_damage_is_found_is_put_back() {
    let mut random = Random(13);
    let elements = 3 * CHUNK_ELEMENTS + 7;
    let old = random.patterns(elements);
    let mut new = old.clone();
    let changed_one_in = |place: usize| [40, 2, 300, 1][place / CHUNK_ELEMENTS];
    let places = (0..elements).filter(|&place| random.next().is_multiple_of(changed_one_in(place)));
    places.for_each(|place| new[place] ^= 3);
    let patch = encode_patch(&old, &new, None).unwrap().bytes;
    let mut target = old.clone();
    let new_hash = 16..24;
    for damaged_at in new_hash.chain([patch.len() - 5]) {
        let mut damaged = patch.clone();
        damaged[damaged_at] ^= 0x10;
        assert!(apply_patch(&mut target, &resealed(damaged)).is_err());
        assert!(target == old, "byte {damaged_at}");
    }
    apply_patch(&mut target, &patch).unwrap();
    assert!(target == new);
}

#[test]
fn a_patch_of_another_format_is_refused_by_its_number() {
    let mut patch = encode_patch(&[1, 2], &[1, 3], None).unwrap().bytes;
    patch[7] = 2;
    let error = apply_patch(&mut [1, 2], &resealed(patch)).unwrap_err();
    assert!(error.to_string().contains("it is of format 2, this reads format 3"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_two_states_are_patched_exactly(
        old in prop::collection::vec(any::<u16>(), 0..600),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>()), 0..300),
    ) {
        let mut new = old.clone();
        if !old.is_empty() {
            changes.iter().for_each(|(index, value)| new[index.index(old.len())] = *value);
        }
        check(&old, &new);
    }

    #[test]
    fn a_forged_patch_never_panics_and_never_makes_a_state_of_another_hash(
        seed in 1u64..1000,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..12),
        one_in in prop::sample::select(vec![2u64, 40]),
    ) {
        let mut random = Random(seed);
        let old = random.patterns(500);
        let new: Vec<u16> =
            old.iter().map(|old| old.wrapping_add(u16::from(random.next().is_multiple_of(one_in)))).collect();
        let mut patch = encode_patch(&old, &new, None).unwrap().bytes;
        let start = at.index(patch.len());
        let end = patch.len().min(start + bytes.len());
        patch[start..end].copy_from_slice(&bytes[..end - start]);
        let mut target = old.clone();
        match apply_patch(&mut target, &resealed(patch)) {
            Ok(_) => prop_assert!(target == new || target == old),
            Err(_) => prop_assert!(target == old),
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut target = vec![1, 2, 3];
        prop_assert!(apply_patch(&mut target, &resealed(bytes)).is_err());
        prop_assert_eq!(target, vec![1, 2, 3]);
    }
}
