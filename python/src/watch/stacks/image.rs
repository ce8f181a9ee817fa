//! The place of the interpreter in the memory of a process.

use std::fs;
use std::io;

/// A file that is mapped into memory: its device and its inode, as `/proc` writes them.
type Mapped = (String, String);

/// One line of a process's list of mappings.
struct Mapping {
    begin: usize,
    end: usize,
    file: Mapped,
}

/// Returns the mappings of files of a process, in the order of their addresses.
fn mappings(process: &str) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{process}/maps"))?;
    // A path may be no valid text. It comes last, and is not used.
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).filter(|it| it.file.1 != "0").collect())
}

fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (begin, end) = fields.next()?.split_once('-')?;
    let mut fields = fields.skip(2);
    Some(Mapping {
        begin: usize::from_str_radix(begin, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        file: (fields.next()?.to_owned(), fields.next()?.to_owned()),
    })
}

/// Returns the number of bytes, modulo the size of memory, by which the file that has this address here is further on in
/// another process. `None` if that process does not have the file.
pub(super) fn distance(address: usize, pid: libc::pid_t) -> io::Result<Option<usize>> {
    let own = mappings("self")?;
    let Some(here) = own.iter().find(|it| (it.begin..it.end).contains(&address)) else { return Ok(None) };
    let begin = |all: &[Mapping]| all.iter().find(|it| it.file == here.file).map(|it| it.begin);
    let there = mappings(&pid.to_string())?;
    Ok(begin(&there).zip(begin(&own)).map(|(there, here)| there.wrapping_sub(here)))
}
