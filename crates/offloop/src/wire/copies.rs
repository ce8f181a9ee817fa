//! Copies of values that come from another process.

#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;

/// The size from which on a copy asks for huge pages. An allocator asks the system for memory of that size anew each time, and
/// most of the time of a copy goes into making its pages.
const LARGE: usize = 8 << 20;

/// Copies bytes. A large copy is in huge pages, where the system has some: they are made much faster.
pub(crate) fn copied(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len());
    #[cfg(target_os = "linux")]
    if bytes.len() >= LARGE {
        ask_for_huge_pages(copy.spare_capacity_mut());
    }
    copy.extend_from_slice(bytes);
    copy
}

/// Lets memory that has not been written to be made of huge pages.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(memory: &mut [MaybeUninit<u8>]) {
    use rustix::mm::{Advice, madvise};

    let page = rustix::param::page_size();
    let start = memory.as_ptr().addr();
    let skipped = start.next_multiple_of(page) - start;
    let Some(length) = memory.len().checked_sub(skipped).map(|length| length / page * page) else { return };
    // If this is refused, the copy is in small pages.
    // SAFETY: these are whole pages within `memory`. The advice is about how they are made, not about what is in them.
    let _ = unsafe { madvise(memory.as_mut_ptr().add(skipped).cast(), length, Advice::LinuxHugepage) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_equal_to_its_original_whatever_its_size() {
        for length in [0, 1, 4096, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 4097] {
            let original: Vec<u8> = (0..length).map(|at| (at / 7).to_le_bytes()[0]).collect();
            assert_eq!(copied(&original), original);
        }
    }
}
