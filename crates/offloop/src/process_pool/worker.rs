//! The other side: what a process does that was started as a worker.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

use super::frame::{Frame, Hello, Kind, PROTOCOL, PanicNote, Reader, Writer};
use super::sys;
use crate::error::ErrorKind;
use crate::job::{Core, Options};
use crate::task::{Fault, Task, fingerprint, registry};

/// Runs jobs until the link closes, then exits. Never returns.
pub(super) fn serve(marker: &OsStr) -> ! {
    // SAFETY: `init` is documented to be called first thing in `main`, when this is the only thread. Programs
    // that a job starts must not take themselves for workers.
    unsafe { std::env::remove_var(sys::MARKER) };
    let Some(orders) = marker.to_str().and_then(sys::Orders::parse) else {
        eprintln!(
            "offloop: the environment variable {} is reserved, and its value makes no sense",
            sys::MARKER
        );
        exit(1);
    };
    match sys::become_worker(orders.parent) {
        Ok(Some(mut link)) => {
            // An error means that the parent is gone: there is nobody left to tell.
            let _ = answer(&mut link, orders.max_payload);
            exit(0)
        }
        Ok(None) => exit(0),
        Err(error) => {
            eprintln!("offloop: this process could not become a worker: {error}");
            exit(1);
        }
    }
}

fn answer(link: &mut UnixStream, max_payload: u32) -> io::Result<()> {
    let hello = Hello { protocol: PROTOCOL, fingerprint: fingerprint() };
    let mut writer = Writer::default();
    writer.push(Kind::Hello, 0, &[], postcard::to_stdvec(&hello).map_err(io::Error::other)?);
    writer.flush(link)?;

    let mut reader = Reader::new(u32::MAX);
    loop {
        while let Some(frame) = reader.next().map_err(io::Error::other)? {
            let job = frame.job;
            let (kind, payload) = run(&frame);
            drop(frame);
            let (kind, payload) = bounded(kind, payload, max_payload);
            let _ = io::stdout().flush();
            writer.push(kind, job, &[], payload);
            writer.flush(link)?;
        }
        if reader.fill(link)? == 0 {
            return Ok(());
        }
    }
}

/// An answer that the parent would refuse becomes one that says so.
fn bounded(kind: Kind, payload: Vec<u8>, limit: u32) -> (Kind, Vec<u8>) {
    if payload.len() <= limit as usize {
        return (kind, payload);
    }
    let reason = format!("it has {} bytes, more than the pool's max_payload of {limit}", payload.len());
    (Kind::BadResult, reason.into_bytes())
}

/// Runs one request and says what it came to.
fn run(frame: &Frame) -> (Kind, Vec<u8>) {
    let (index, arguments) = match frame.payload.split_first_chunk() {
        Some((index, arguments)) if frame.kind == Kind::Run => (u32::from_le_bytes(*index), arguments),
        _ => return (Kind::BadArguments, b"the request is malformed".to_vec()),
    };
    let Some(task) = usize::try_from(index).ok().and_then(|index| registry().get(index)) else {
        return (Kind::BadArguments, b"the request names no task".to_vec());
    };
    match perform(task, arguments) {
        Ok(Ok(result)) => (Kind::Done, result),
        Ok(Err(Fault::Arguments(reason))) => (Kind::BadArguments, reason.into_bytes()),
        Ok(Err(Fault::Result(reason))) => (Kind::BadResult, reason.into_bytes()),
        Err(ErrorKind::Panicked(panic)) => {
            let note = PanicNote { message: panic.message, place: panic.place, backtrace: panic.backtrace };
            (Kind::Panicked, postcard::to_stdvec(&note).unwrap_or_default())
        }
        Err(other) => (Kind::BadResult, other.to_string().into_bytes()),
    }
}

/// Calls the task as the current job of this thread, its panic caught.
fn perform(task: &Task, arguments: &[u8]) -> Result<Result<Vec<u8>, Fault>, ErrorKind> {
    let mut options = Options::new();
    options.name = task.name.into();
    Core::new(options).perform(|| Ok((task.run)(arguments)))
}
