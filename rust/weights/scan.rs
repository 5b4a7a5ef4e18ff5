//! Finding changed elements: a comparison that reads both states at memory speed and stops only where they differ.

use super::patch::Change;

/// Elements compared at once, a cache line.
const GROUP: usize = 32;

/// Fills `changes` with every place where `new` differs from `old`, in order, and its new value.
pub(super) fn changes(old: &[u16], new: &[u16], changes: &mut Vec<Change>) {
    changes.clear();
    let (old_groups, old_rest) = old.as_chunks::<GROUP>();
    let (new_groups, new_rest) = new.as_chunks::<GROUP>();
    for (group, (old, new)) in old_groups.iter().zip(new_groups).enumerate() {
        if differ(old, new) {
            collect(old, new, group * GROUP, changes);
        }
    }
    collect(old_rest, new_rest, old_groups.len() * GROUP, changes);
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

fn collect(old: &[u16], new: &[u16], start: usize, changes: &mut Vec<Change>) {
    for (place, (old, new)) in old.iter().zip(new).enumerate() {
        if old != new {
            changes.push(((start + place) as u32, *new));
        }
    }
}
