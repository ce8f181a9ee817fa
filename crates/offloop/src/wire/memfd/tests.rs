//! Which files are mapped, where a mapping's ranges lie, and private mappings.

use std::os::fd::AsRawFd;

use proptest::prelude::*;

use super::*;

/// The size of a page, in bytes.
const PAGE: usize = 4096;

/// A memory file of `size` bytes and a writable mapping of it.
fn mapped(size: usize) -> (OwnedFd, Mapping) {
    let file = MemoryFile::new("offloop-test", size).unwrap();
    let mapping = file.map().unwrap();
    (file.sealed().unwrap(), mapping)
}

proptest! {
    #[test]
    fn ranges_within_the_mapping_have_an_address_and_others_do_not(start: u64, end: u64, near: bool) {
        let (_file, mapping) = mapped(16 * PAGE);
        let size = mapping.size() as u64;
        let range = if near { start % (size + 2)..end % (size + 2) } else { start..end };
        let expected = range.start <= range.end && range.end <= size;
        let address = mapping.at(&range).map(|it| it.as_ptr().addr() - mapping.start().as_ptr().addr());
        prop_assert_eq!(address, expected.then(|| usize::try_from(range.start).unwrap()));
    }
}

/// A file of `size` bytes with these seals.
fn file(size: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("offloop-test", flags).unwrap();
    rustix::fs::ftruncate(&file, size as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

#[test]
fn a_file_that_could_shrink_is_not_mapped() {
    let size = 4 * PAGE;
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::GROW | SealFlags::SEAL] {
        for writable in [false, true] {
            let error = Mapping::new(file(size, seals).as_fd(), size, writable).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{seals:?}");
        }
    }
    assert!(Mapping::new(file(size, SealFlags::SHRINK).as_fd(), size, true).is_ok());
}

#[test]
fn a_file_that_is_too_small_is_not_mapped() {
    let file = MemoryFile::new("offloop-test", 4 * PAGE).unwrap().sealed().unwrap();
    for size in [4 * PAGE + 1, 5 * PAGE, usize::MAX] {
        let error = Mapping::new(file.as_fd(), size, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{size}");
    }
    let empty = MemoryFile::new("offloop-test", 0).unwrap().sealed().unwrap();
    assert!(Mapping::new(empty.as_fd(), 1, false).is_err());
    for size in [1, PAGE, 4 * PAGE] {
        assert_eq!(Mapping::new(file.as_fd(), size, true).unwrap().size(), size);
    }
}

#[test]
fn a_descriptor_of_something_else_is_not_mapped() {
    let (read, _write) = rustix::pipe::pipe().unwrap();
    assert!(Mapping::new(read.as_fd(), PAGE, false).is_err());
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(Mapping::new(null.as_fd(), PAGE, false).is_err());
}

#[test]
fn a_memory_file_keeps_its_size() {
    let file = MemoryFile::new("offloop-test", 4 * PAGE).unwrap().sealed().unwrap();
    for size in [0, 3 * PAGE, 5 * PAGE] {
        assert!(rustix::fs::ftruncate(&file, size as u64).is_err(), "to {size}");
    }
    assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).is_err(), "its seals are final");
}

/// A mapping of a file of four pages, each full of its number, that keeps its file.
fn four_pages() -> Mapping {
    let (file, mapping) = mapped(4 * PAGE);
    let mapping = mapping.keep_copy_of(file.as_fd()).unwrap();
    for page in 0..4_u8 {
        // SAFETY: the page lies within the mapping, to which there are no references.
        unsafe { mapping.start().add(usize::from(page) * PAGE).write_bytes(page, PAGE) };
    }
    mapping
}

fn of_page(mapping: &Mapping, page: usize, length: usize) -> Option<PrivateMapping> {
    // SAFETY: `page` is at most the number of pages of the mapping.
    mapping.map_private(unsafe { mapping.start().add(page * PAGE) }, length)
}

#[test]
fn a_private_mapping_has_the_bytes_of_its_range_and_does_not_share_what_is_written_to_it() {
    let mapping = four_pages();
    let mut private = of_page(&mapping, 1, 2 * PAGE).unwrap();
    assert_eq!(private.bytes(), [[1; PAGE], [2; PAGE]].concat());
    private.bytes_mut().fill(9);
    assert_eq!(private.bytes(), [9; 2 * PAGE]);
    let again = of_page(&mapping, 0, 4 * PAGE).unwrap();
    let expected: Vec<u8> = (0..4).flat_map(|page| [page; PAGE]).collect();
    assert_eq!(again.bytes(), expected);
    // It outlives the mapping that it was made from.
    drop(mapping);
    assert_eq!((again.bytes(), private.bytes()[0]), (&*expected, 9));
}

#[test]
fn only_ranges_within_the_mapping_of_the_kept_file_are_mapped_privately() {
    let mapping = four_pages();
    assert!(of_page(&mapping, 3, PAGE).is_some());
    assert!(of_page(&mapping, 3, PAGE + 1).is_none(), "beyond the end");
    assert!(of_page(&mapping, 4, 1).is_none(), "after the end");
    assert!(of_page(&mapping, 1, usize::MAX).is_none(), "more than there are addresses");
    assert!(of_page(&mapping, 1, 0).is_none(), "nothing");
    assert!(mapping.map_private(NonNull::<u64>::dangling().cast(), PAGE).is_none(), "elsewhere");

    let (_file, without_file) = mapped(4 * PAGE);
    assert!(of_page(&without_file, 0, PAGE).is_none(), "its file was not kept");

    // A job may close all descriptors, and another file may then get the number of the kept one.
    let (kept, _) = mapping.file.as_ref().unwrap();
    let (other, _) = mapped(4 * PAGE);
    let kept = kept.get().unwrap().as_raw_fd();
    // SAFETY: both descriptors are open. Only the mapping uses the one that now refers to another file.
    assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), kept) }, kept);
    assert!(of_page(&mapping, 1, PAGE).is_none(), "it is another file");
}
