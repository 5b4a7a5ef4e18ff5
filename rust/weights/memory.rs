//! Pages of large memory. A system that hands out 4 KiB at a time spends more on that than a socket does on filling them;
//! it is asked for huge pages instead, which it may refuse.

use rustix::mm::{Advice, madvise};

/// The smallest page there is: advice begins at a multiple of it.
const PAGE_BYTES: usize = 4096;
/// Memory below it has no room for a huge page.
const SMALLEST: usize = 4 << 20;

/// Asks for huge pages for memory that has not been written to yet.
pub(super) fn prefer_huge_pages<T>(memory: &mut Vec<T>) {
    let (start, bytes) = (memory.as_mut_ptr().cast::<u8>(), memory.capacity() * size_of::<T>());
    let before = start.align_offset(PAGE_BYTES);
    if bytes >= SMALLEST && before < bytes {
        // SAFETY: madvise of huge pages changes what backs the vector's own memory and leaves what it holds alone.
        let _ = unsafe { madvise(start.wrapping_add(before).cast(), bytes - before, Advice::LinuxHugepage) };
    }
}

/// Asks for an element to be fetched from memory before it is needed, where the processor can be asked so.
#[inline(always)]
pub(super) fn prefetch<T>(memory: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = memory.as_ptr().wrapping_add(index).cast();
        // SAFETY: _mm_prefetch changes nothing that a program can see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (memory, index);
}
