//! Packing: fitting sequences of different lengths into rows of a token budget, several to a row, none split. First-fit
//! decreasing: at most 11/9 of the fewest rows possible, plus one. Equal inputs give equal layouts everywhere.

use crate::error::{Error, Result};

/// Where a sequence lies: its row, and the column of its first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Row, from 0.
    pub row: usize,
    /// Column of the first token.
    pub start: usize,
}

/// A place for each sequence, and how many rows there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Rows, the empty ones at the end included.
    pub rows: usize,
    /// The place of each sequence, in the order of the lengths given.
    pub places: Vec<Place>,
}

/// Places sequences of these lengths into rows of `budget` tokens; the number of rows is rounded up to a multiple of
/// `row_multiple` with empty ones.
pub fn pack(lengths: &[usize], budget: usize, row_multiple: usize) -> Result<Layout> {
    if budget == 0 || row_multiple == 0 {
        return Err(Error::invalid("token_budget and row_multiple must be at least 1"));
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
    let mut used: Vec<usize> = Vec::new();
    let mut places = vec![Place { row: 0, start: 0 }; lengths.len()];
    for at in order {
        let length = lengths[at];
        if length > budget {
            return Err(Error::invalid(format!(
                "sequence {at} has {length} tokens, token_budget is {budget}: raise token_budget to {length} or more, or \
                 leave the sequence out"
            )));
        }
        let row = used.iter().position(|used| budget - used >= length).unwrap_or_else(|| {
            used.push(0);
            used.len() - 1
        });
        places[at] = Place { row, start: used[row] };
        used[row] += length;
    }
    let rows = used.len().max(1).next_multiple_of(row_multiple);
    Ok(Layout { rows, places })
}
