//! Finding changed elements: a comparison that reads both states at memory speed and stops only where they differ.

use super::hash::{LANE_ELEMENTS, lane_difference};
use super::patch::Change;

/// Elements compared at once, a cache line.
const GROUP: usize = 32;
/// Lanes of the state hash in a group.
const LANES: usize = GROUP / LANE_ELEMENTS;
/// Groups compared before the first change among them is looked at. Whether a group differs cannot be foretold, so a branch
/// for each would cost as much as comparing several.
const GROUPS: usize = 64;

/// Fills `changes` with every place where `new` differs from `old`, in order. Returns how much the state hash of `new` is
/// above that of `old`, modulo 2^64: what it needs is at hand here, and in memory later.
pub(super) fn changes(old: &[u16], new: &[u16], changes: &mut Vec<Change>) -> u64 {
    changes.clear();
    let (old_groups, old_rest) = old.as_chunks::<GROUP>();
    let (new_groups, new_rest) = new.as_chunks::<GROUP>();
    let mut above = 0u64;
    for (run, (old, new)) in old_groups.chunks(GROUPS).zip(new_groups.chunks(GROUPS)).enumerate() {
        let mut differing = differing_groups(old, new);
        while differing != 0 {
            let group = differing.trailing_zeros() as usize;
            differing &= differing - 1;
            let found = add_changes(&old[group], &new[group], run * GROUPS + group, changes);
            above = above.wrapping_add(found);
        }
    }
    let padded = |rest: &[u16]| std::array::from_fn(|at| rest.get(at).copied().unwrap_or_default());
    above.wrapping_add(add_changes(&padded(old_rest), &padded(new_rest), old_groups.len(), changes))
}

/// One bit for each group, set where they differ.
#[inline(always)]
fn differing_groups(old: &[[u16; GROUP]], new: &[[u16; GROUP]]) -> u64 {
    let pairs = old.iter().zip(new).enumerate();
    pairs.fold(0, |bits, (group, (old, new))| bits | u64::from(differ(old, new)) << group)
}

/// Without early exit, so that it compiles to a handful of vector instructions.
#[inline(always)]
fn differ(old: &[u16; GROUP], new: &[u16; GROUP]) -> bool {
    let mut difference = 0;
    for (old, new) in old.iter().zip(new) {
        difference |= old ^ new;
    }
    difference != 0
}

/// Adds the changes of a group; returns what they add to the state hash.
#[inline(always)]
fn add_changes(old: &[u16; GROUP], new: &[u16; GROUP], group: usize, changes: &mut Vec<Change>) -> u64 {
    let (olds, news): ([u64; LANES], [u64; LANES]) = (bytemuck::cast(*old), bytemuck::cast(*new));
    // Which lanes differ is found without a branch, since it cannot be foretold either.
    let mut differing = (0..LANES).fold(0u32, |bits, lane| bits | u32::from(olds[lane] != news[lane]) << lane);
    let mut above = 0u64;
    while differing != 0 {
        let lane = differing.trailing_zeros() as usize;
        differing &= differing - 1;
        above = above.wrapping_add(lane_difference(group * LANES + lane, olds[lane], news[lane]));
        let mut difference = olds[lane] ^ news[lane];
        while difference != 0 {
            let element = difference.trailing_zeros() / u16::BITS;
            difference &= !(0xFFFF << (element * u16::BITS));
            let place = lane * LANE_ELEMENTS + element as usize;
            changes.push(Change { place: (group * GROUP + place) as u32, old: old[place], new: new[place] });
        }
    }
    above
}
