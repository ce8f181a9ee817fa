//! Names the system call that has failed, and says what to do if it was refused.
//!
//! The system's own text ("Operation not permitted") names no call, and a sandbox may refuse any of them. So each error
//! of a raw system call on the way to a worker passes through here before it leaves its function.

use std::fmt;
use std::io;

/// The failure of a system call, with the call's name.
#[derive(Debug)]
struct FailedCall {
    name: &'static str,
    source: io::Error,
}

impl fmt::Display for FailedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, source } = self;
        write!(f, "{name} failed: {source}")?;
        // The name may be followed by what the call was about: `open of /dev/null`.
        let call = name.split(' ').next().unwrap_or(name);
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                write!(f, "; if a seccomp profile or another sandbox refuses it, allow {call} there")
            }
            Some(libc::ENOSYS) => write!(
                f,
                "; process pools need Linux 5.3 or newer, and a seccomp profile, sandbox or emulator has to \
                 allow {call}"
            ),
            Some(libc::ENOENT) if name.contains("/proc") => {
                f.write_str("; mount /proc (mount -t proc proc /proc)")
            }
            Some(libc::ENOMEM) if call == "mmap" => f.write_str(
                "; raise the limit of the address space (ulimit -v) if there is one, or vm.max_map_count",
            ),
            Some(libc::EAGAIN) if call == "mmap" => f.write_str(
                "; this program locks its memory (mlockall), so raise the limit of locked memory (ulimit -l)",
            ),
            Some(libc::EMFILE) => f.write_str("; raise the limit of open files (ulimit -n)"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for FailedCall {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Names the call that an error is of.
pub(crate) trait NameCall<T> {
    /// Adds the name of the system call, such as `memfd_create`, to the error. Its kind stays.
    fn of_call(self, name: &'static str) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> NameCall<T> for Result<T, E> {
    fn of_call(self, name: &'static str) -> io::Result<T> {
        self.map_err(|error| {
            let source = error.into();
            io::Error::new(source.kind(), FailedCall { name, source })
        })
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_named_with_what_to_allow() {
        let text = |errno| {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            let error = failed.of_call("memfd_create").unwrap_err();
            assert_eq!(error.kind(), io::Error::from_raw_os_error(errno).kind());
            error.to_string()
        };
        assert!(text(libc::EPERM).starts_with("memfd_create failed: Operation not permitted"));
        assert!(text(libc::EPERM).ends_with("allow memfd_create there"));
        assert!(text(libc::ENOSYS).contains("Linux 5.3"));
        assert!(text(libc::ENOMEM).starts_with("memfd_create failed: "));
        assert!(!text(libc::ENOMEM).contains(';'));
    }
}
