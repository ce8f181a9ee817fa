//! The directory in which the programs of one user find each other: one socket for each process, named by its id.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The ending of the names of sockets.
const ENDING: &str = ".sock";

/// The place of the directory.
pub(super) fn path() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let is_ours =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == user);
    match runtime.filter(is_ours) {
        Some(runtime) => runtime.join("offloop"),
        None => PathBuf::from(format!("/tmp/offloop-{user}")),
    }
}

/// Returns the directory, and makes it if need be.
///
/// # Errors
///
/// If what has its name is no directory, belongs to somebody else, or can be entered by others: then it is not used.
pub(super) fn open() -> io::Result<PathBuf> {
    let path = path();
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(&path, &error)),
        _ => existing().and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into())),
    }
}

/// Returns the directory, if it exists.
///
/// # Errors
///
/// As for [`open`].
pub(super) fn existing() -> io::Result<Option<PathBuf>> {
    let path = path();
    match fs::symlink_metadata(&path) {
        Ok(found) => check(&path, &found).map(|()| Some(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path, &error)),
    }
}

fn check(path: &Path, found: &Metadata) -> io::Result<()> {
    let refuse = |what: &str| {
        let text =
            format!("{}: {what}; remove it, or set XDG_RUNTIME_DIR to a directory of yours", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    if !found.is_dir() {
        return refuse("it is no directory");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if found.permissions().mode() & 0o077 != 0 {
        return refuse("others may enter it (its mode is not 0700)");
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Returns the path of the socket of a process.
pub(super) fn socket_of(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{pid}{ENDING}"))
}

/// Returns the sockets in a directory, with the ids of their processes, in the order of these.
pub(super) fn sockets(directory: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let socket = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.strip_suffix(ENDING)?.parse().ok()?;
        Some((pid, entry.path()))
    };
    let mut sockets: Vec<_> = entries.filter_map(socket).collect();
    sockets.sort_unstable();
    sockets
}
