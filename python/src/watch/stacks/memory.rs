//! Reads of memory at addresses that may be wrong by now: that of this process, and of other ones of the same user.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The way to memory that another thread may change or free meanwhile. The system copies it, so a wrong address is an
/// error and not a crash.
pub(super) enum Memory {
    /// The system call that copies from a process: from this one, or from that with this id.
    SystemCall(Option<libc::pid_t>),
    /// The file that is the process's memory, where a sandbox refuses that call.
    File(File),
}

impl Memory {
    /// Opens the memory of this process.
    pub(super) fn open() -> io::Result<Self> {
        let probe = 0x5a_usize;
        let address = (&raw const probe).addr();
        if Self::SystemCall(None).word(address) == Some(probe) {
            return Ok(Self::SystemCall(None));
        }
        let file = Self::File(File::open("/proc/self/mem")?);
        match file.word(address) {
            Some(word) if word == probe => Ok(file),
            _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the system refuses reads of memory")),
        }
    }

    /// Opens the memory of another process, in the same way.
    pub(super) fn of(&self, pid: libc::pid_t) -> io::Result<Self> {
        Ok(match self {
            Self::SystemCall(_) => Self::SystemCall(Some(pid)),
            Self::File(_) => Self::File(File::open(format!("/proc/{pid}/mem"))?),
        })
    }

    /// Fills the buffer from the address. Returns `None` if not all of it can be read.
    pub(super) fn read(&self, address: usize, buffer: &mut [u8]) -> Option<()> {
        match self {
            Self::SystemCall(pid) => {
                let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
                let remote = libc::iovec {
                    iov_base: std::ptr::without_provenance_mut(address),
                    iov_len: buffer.len(),
                };
                // SAFETY: the function only returns a number.
                let pid = pid.unwrap_or_else(|| unsafe { libc::getpid() });
                // SAFETY: the system writes only to the buffer, which this function has exclusively. It checks the
                // other address itself.
                let count =
                    unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
                (usize::try_from(count) == Ok(buffer.len())).then_some(())
            }
            Self::File(file) => file.read_exact_at(buffer, u64::try_from(address).ok()?).ok(),
        }
    }

    /// Returns the word at the address.
    pub(super) fn word(&self, address: usize) -> Option<usize> {
        let mut word = [0; size_of::<usize>()];
        self.read(address, &mut word)?;
        Some(usize::from_ne_bytes(word))
    }

    /// Returns the 32-bit number at the address.
    pub(super) fn number(&self, address: usize) -> Option<i32> {
        let mut number = [0; 4];
        self.read(address, &mut number)?;
        Some(i32::from_ne_bytes(number))
    }
}

/// The size of a page, of which all or nothing can be read.
const PAGE: usize = 4096;

/// Memory as it was when each of its pages was first read. Each read of memory is a system call, and what belongs to a
/// stack is close together.
pub(super) struct Snapshot<'a> {
    memory: &'a Memory,
    /// The pages by their addresses; `None` if one cannot be read.
    pages: HashMap<usize, Option<Box<[u8; PAGE]>>>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(memory: &'a Memory) -> Self {
        Self { memory, pages: HashMap::new() }
    }

    /// Fills the beginning of the buffer from the address, as far as there is memory. Returns how much that is.
    pub(super) fn read_some(&mut self, address: usize, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = address.checked_add(done) else { break };
            let page = self.pages.entry(at & !(PAGE - 1)).or_insert_with_key(|page| {
                let mut bytes = Box::new([0; PAGE]);
                self.memory.read(*page, &mut bytes[..]).map(|()| bytes)
            });
            let Some(page) = page else { break };
            let begin = at & (PAGE - 1);
            let length = (PAGE - begin).min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&page[begin..begin + length]);
            done += length;
        }
        done
    }

    /// Fills the buffer from the address. Returns `None` if not all of it can be read.
    pub(super) fn read(&mut self, address: usize, buffer: &mut [u8]) -> Option<()> {
        (self.read_some(address, buffer) == buffer.len()).then_some(())
    }
}
