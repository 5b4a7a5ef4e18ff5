//! Finding changed elements: a comparison that reads both states at memory speed and stops only where they differ.

use super::patch::Change;

/// Elements compared at once, a cache line.
const GROUP: usize = 32;
/// Groups compared before the first change among them is looked at. Whether a group differs cannot be foretold, so a branch
/// for each would cost as much as comparing several.
const GROUPS: usize = 64;

/// Fills `changes` with every place where `new` differs from `old`, in order, and its new value.
pub(super) fn changes(old: &[u16], new: &[u16], changes: &mut Vec<Change>) {
    changes.clear();
    let (old_groups, old_rest) = old.as_chunks::<GROUP>();
    let (new_groups, new_rest) = new.as_chunks::<GROUP>();
    for (run, (old, new)) in old_groups.chunks(GROUPS).zip(new_groups.chunks(GROUPS)).enumerate() {
        let mut differing = differing_groups(old, new);
        while differing != 0 {
            let group = differing.trailing_zeros() as usize;
            differing &= differing - 1;
            let (old, new, start) = (&old[group], &new[group], (run * GROUPS + group) * GROUP);
            let mut left = difference_bits(old, new);
            while left != 0 {
                let place = left.trailing_zeros() as usize;
                left &= left - 1;
                changes.push(((start + place) as u32, new[place]));
            }
        }
    }
    let start = old_groups.len() * GROUP;
    for (place, (old, new)) in old_rest.iter().zip(new_rest).enumerate() {
        if old != new {
            changes.push(((start + place) as u32, *new));
        }
    }
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

/// One bit for each element, set where they differ.
#[inline(always)]
fn difference_bits(old: &[u16; GROUP], new: &[u16; GROUP]) -> u32 {
    let mut flags = [0u8; GROUP];
    for (flag, (old, new)) in flags.iter_mut().zip(old.iter().zip(new)) {
        *flag = u8::from(old != new);
    }
    // The multiplication moves the lowest bits of eight bytes side by side into the highest byte.
    let gather = |flags: &[u8; 8]| (u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    let bytes = flags.as_chunks::<8>().0.iter().enumerate();
    bytes.fold(0, |bits, (index, flags)| bits | gather(flags) << (8 * index))
}
