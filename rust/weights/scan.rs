//! Finding changed elements: a comparison that reads both states at memory speed and stops only where they differ.

use super::hash::{LANE_ELEMENTS, lane_difference};
use super::memory::prefetch;
use super::patch::Change;

/// Elements compared at once, a cache line.
const GROUP: usize = 32;
/// Lanes of the state hash in a group.
const LANES: usize = GROUP / LANE_ELEMENTS;
/// Groups compared before the first change among them is looked at. Whether a group differs cannot be foretold, so a branch
/// for each would cost as much as comparing several. As many are on their way from memory meanwhile: the processor alone looks
/// no further ahead than what was read, so memory would stand still while changes are looked at.
const GROUPS: usize = 64;

/// Fills `changes` with every place where `new` differs from `old`, in order. Returns how much the state hash of `new` is
/// above that of `old`, modulo 2^64: what it needs is at hand here, and in memory later.
pub(super) fn changes(old: &[u16], new: &[u16], changes: &mut Vec<Change>) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has just been asked for what the function is compiled for.
        return unsafe { changes_avx2(old, new, changes) };
    }
    changes_by(differing, old, new, changes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn changes_avx2(old: &[u16], new: &[u16], changes: &mut Vec<Change>) -> u64 {
    use std::arch::x86_64::*;
    let differing = |old: &[u16; GROUP], new: &[u16; GROUP]| {
        let (old, new): ([__m256i; 2], [__m256i; 2]) = (bytemuck::cast(*old), bytemuck::cast(*new));
        let equal = _mm256_packs_epi16(_mm256_cmpeq_epi16(old[0], new[0]), _mm256_cmpeq_epi16(old[1], new[1]));
        !_mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(equal)) as u32
    };
    changes_by(differing, old, new, changes)
}

/// One bit for each element, set where they differ.
fn differing(old: &[u16; GROUP], new: &[u16; GROUP]) -> u32 {
    // Most groups do not differ, and that is found without early exit, so with a handful of vector instructions.
    if old.iter().zip(new).fold(0, |difference, (old, new)| difference | (old ^ new)) == 0 {
        return 0;
    }
    (0..GROUP).fold(0, |bits, at| bits | u32::from(old[at] != new[at]) << at)
}

#[inline(always)]
fn changes_by(
    differing: impl Fn(&[u16; GROUP], &[u16; GROUP]) -> u32,
    old: &[u16],
    new: &[u16],
    changes: &mut Vec<Change>,
) -> u64 {
    changes.clear();
    let all = (old, new);
    let (old_groups, old_rest) = old.as_chunks::<GROUP>();
    let (new_groups, new_rest) = new.as_chunks::<GROUP>();
    let mut above = 0u64;
    let mut elements = [0; GROUPS];
    for (run, (olds, news)) in old_groups.chunks(GROUPS).zip(new_groups.chunks(GROUPS)).enumerate() {
        let mut groups = 0u64;
        for (group, ((old, new), elements)) in olds.iter().zip(news).zip(&mut elements).enumerate() {
            let next = ((run + 1) * GROUPS + group) * GROUP;
            prefetch(all.0, next);
            prefetch(all.1, next);
            *elements = differing(old, new);
            groups |= u64::from(*elements != 0) << group;
        }
        while groups != 0 {
            let group = groups.trailing_zeros() as usize;
            groups &= groups - 1;
            let found = add_changes(&olds[group], &news[group], elements[group], run * GROUPS + group, changes);
            above = above.wrapping_add(found);
        }
    }
    let padded = |rest: &[u16]| std::array::from_fn(|at| rest.get(at).copied().unwrap_or_default());
    let (old, new) = (padded(old_rest), padded(new_rest));
    above.wrapping_add(add_changes(&old, &new, differing(&old, &new), old_groups.len(), changes))
}

/// Adds the changes of a group, those of `elements`; returns what they add to the state hash.
#[inline(always)]
fn add_changes(
    old: &[u16; GROUP],
    new: &[u16; GROUP],
    mut elements: u32,
    group: usize,
    changes: &mut Vec<Change>,
) -> u64 {
    let (olds, news): ([u64; LANES], [u64; LANES]) = (bytemuck::cast(*old), bytemuck::cast(*new));
    let mut above = 0u64;
    while elements != 0 {
        let lane = elements.trailing_zeros() as usize / LANE_ELEMENTS;
        above = above.wrapping_add(lane_difference(group * LANES + lane, olds[lane], news[lane]));
        let mut of_lane = elements & (0xF << (lane * LANE_ELEMENTS));
        elements ^= of_lane;
        while of_lane != 0 {
            let place = of_lane.trailing_zeros() as usize;
            of_lane &= of_lane - 1;
            changes.push(Change { place: (group * GROUP + place) as u32, old: old[place], new: new[place] });
        }
    }
    above
}

#[cfg(test)]
mod tests {
    use super::super::hash::state_hash;
    use super::*;

    #[test]
    fn every_change_is_found_with_and_without_vectors() {
        for length in [0, 1, 31, 32, 33, 2047, 2048, 2049, 10_000, 300_001] {
            for one_in in [1, 3, 40, 5000] {
                let old: Vec<u16> = (0..length).map(|at| at as u16 ^ 0x3F80).collect();
                let new: Vec<u16> = old
                    .iter()
                    .enumerate()
                    .map(|(at, &old)| if at * 7919 % one_in == 0 { old ^ 0x8001 } else { old })
                    .collect();
                let expected: Vec<_> =
                    (0..length).filter(|&at| old[at] != new[at]).map(|at| (at as u32, old[at], new[at])).collect();
                let difference =
                    state_hash(bytemuck::cast_slice(&new)).wrapping_sub(state_hash(bytemuck::cast_slice(&old)));
                for scan in [changes, |old: &[u16], new: &[u16], found: &mut Vec<Change>| {
                    changes_by(differing, old, new, found)
                }] {
                    let mut found = vec![Change { place: 1, old: 2, new: 3 }];
                    assert_eq!(scan(&old, &new, &mut found), difference);
                    let found: Vec<_> = found.iter().map(|change| (change.place, change.old, change.new)).collect();
                    assert_eq!(found, expected, "{length} elements, one in {one_in}");
                }
            }
        }
    }
}
