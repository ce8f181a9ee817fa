//! Forks of a process that holds ranges of shared memory.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::{ForkFile, ForkRange};
use crate::wire::memfd::{Mapping, MemoryFile};

const SIZE: usize = 64 * 1024;

/// Returns the exit status of a forked child that runs `child`, or the negated signal that ended it.
fn in_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs nothing but `child`, which makes system calls and accesses memory, and `_exit`.
    match unsafe { libc::fork() } {
        // SAFETY: the child ends here, without running anything of the parent's.
        0 => unsafe { libc::_exit(child()) },
        pid => {
            let mut status = 0;
            // SAFETY: `status` outlives the call, and `pid` is a child of this process that no other thread waits for.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
        }
    }
}

fn at(mapping: &Mapping, offset: usize) -> NonNull<u8> {
    mapping.at(&(offset as u64..offset as u64)).unwrap()
}

#[test]
fn a_child_has_copies_of_the_held_ranges_and_no_other_shared_memory() {
    let file = MemoryFile::new("offloop-test", SIZE).unwrap();
    let mapping = file.map().unwrap();
    let file = ForkFile::new(file.sealed().unwrap()).unwrap();
    // SAFETY: the whole mapping is written to and read by this thread alone.
    let (read, write) = (
        |at: NonNull<u8>| unsafe { at.read_volatile() },
        |at: NonNull<u8>, value| unsafe {
            at.write_volatile(value);
        },
    );
    let (held, released, never) = (at(&mapping, 4000), at(&mapping, 20_000), at(&mapping, 40_000));
    for at in [held, released, never] {
        write(at, 7);
    }
    let range = ForkRange::copied(held, 200);
    drop(ForkRange::copied(released, 200));
    assert_eq!(
        in_child(|| {
            write(held, 8);
            i32::from(read(held))
        }),
        8
    );
    assert_eq!(read(held), 7, "the child has written to the parent's memory");
    assert_eq!(in_child(|| i32::from(read(released))), -libc::SIGSEGV, "it was released before the fork");
    assert_eq!(in_child(|| i32::from(read(never))), -libc::SIGSEGV, "nobody holds it");
    drop(range);
    assert_eq!(in_child(|| i32::from(read(held))), -libc::SIGSEGV);

    let descriptor = file.get().unwrap().as_raw_fd();
    // SAFETY: the call only looks at the descriptor.
    let is_open = || i32::from(unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0);
    assert_eq!((is_open(), in_child(is_open), in_child(|| i32::from(file.get().is_some()))), (1, 0, 0));
}
