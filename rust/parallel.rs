//! One function on many items, on as many cores as there are. The calling thread works too, and is the one that hears
//! the caller's interrupt.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// Items that a thread takes at a time.
const BLOCK: usize = 8;
/// Fewer are not worth starting threads for.
const MIN_ITEMS: usize = 4 * BLOCK;
const MAX_THREADS: usize = 8;
/// Asked for once: finding out reads files.
static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));

/// `work` of each item, in their order; the first error met, if there is one.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    interrupt: Interrupt<'_>,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    in_blocks(items, BLOCK, if items.len() < MIN_ITEMS { 1 } else { items.len() / BLOCK }, interrupt, work)
}

/// The same for items each of which is worth a thread.
pub fn map_large<T: Sync, R: Send>(
    items: &[T],
    interrupt: Interrupt<'_>,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    in_blocks(items, 1, items.len(), interrupt, work)
}

fn in_blocks<T: Sync, R: Send>(
    items: &[T],
    block: usize,
    most_threads: usize,
    interrupt: Interrupt<'_>,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = match most_threads {
        0 | 1 => 1,
        most => CORES.min(MAX_THREADS).min(most),
    };
    if threads == 1 {
        let one = |item| interrupt.check().and_then(|()| work(item));
        return items.iter().map(one).collect();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Vec<R>)>> = Mutex::new(Vec::with_capacity(items.len().div_ceil(block)));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let blocks = |check: &dyn Fn() -> Result<()>| {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(block, Ordering::Relaxed);
            let Some(block) = items.get(at..items.len().min(at + block)).filter(|block| !block.is_empty()) else {
                return;
            };
            match check().and_then(|()| block.iter().map(&work).collect::<Result<Vec<R>>>()) {
                Ok(results) => lock(&done).push((at, results)),
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| blocks(&|| Ok(())));
        }
        blocks(&|| interrupt.check());
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
            done.sort_unstable_by_key(|(at, _)| *at);
            Ok(done.into_iter().flat_map(|(_, results)| results).collect())
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
