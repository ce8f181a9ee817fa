//! File descriptors: sockets that carry them, events, pipes, and the standard streams.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

use super::block;
use crate::base::syscall::NameCall;

/// The largest number of descriptors that one message carries.
pub(in crate::processes) const MAX_FILES: usize = 64;

/// Sends `bytes` in one message, with copies of up to [`MAX_FILES`] descriptors. The socket decides whether it blocks.
pub(in crate::processes) fn send_with_files(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    let sent = sent.of_call("sendmsg")?;
    if sent < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
}

/// Receives one message of at most `longest` bytes, with its descriptors. No bytes mean that the socket has ended.
pub(in crate::processes) fn receive_with_files(
    socket: BorrowedFd<'_>,
    longest: usize,
) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; longest];
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .of_call("recvmsg")?;
    bytes.truncate(message.bytes);
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    Ok((bytes, files.flatten().collect()))
}

/// Bytes of a stream, and a file that has come with them.
pub(in crate::processes) struct Received {
    /// None mean that the stream has ended.
    pub(in crate::processes) bytes: Vec<u8>,
    pub(in crate::processes) file: Option<OwnedFd>,
    /// Another read may bring more at once.
    pub(in crate::processes) may_be_more: bool,
}

/// Reads some bytes of a stream. A read ends after bytes with which a file was sent. If this process can have no further
/// descriptor, the file is lost.
pub(in crate::processes) fn receive_some(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> rustix::io::Result<Received> {
    block::receive(flags, |flags| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 64];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(socket, &mut buffers, &mut control, flags)?;
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let has_file = file.is_some() || message.flags.contains(ReturnFlags::CTRUNC);
        let bytes = bytes[..message.bytes].to_vec();
        Ok(Received { may_be_more: has_file || bytes.len() == 64, bytes, file })
    })
}

/// Copies the beginning of the next message on a socket without taking it. Returns the number of bytes. Does not block.
///
/// Fails if there is no message, and if the descriptor is no socket.
pub(in crate::processes) fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    let (count, _) = rustix::net::recv(socket, bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// Makes a pair of sockets that keep the bounds of messages. The first one does not block.
pub(in crate::processes) fn message_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .of_call("socketpair")?;
    rustix::io::ioctl_fionbio(&ours, true).of_call("ioctl(FIONBIO)")?;
    Ok((ours, theirs))
}

/// Reads away the bytes on a socket, which mean nothing but "look". The first read is made with `flags`. Returns false
/// if the socket has ended.
pub(in crate::processes) fn drain_socket(socket: &UnixStream, mut flags: RecvFlags) -> bool {
    let mut bytes = [0; 64];
    loop {
        match block::receive(flags, |flags| rustix::net::recv(socket, &mut bytes, flags)) {
            Ok((0, _)) => return false,
            Ok((count, _)) if count < bytes.len() => return true,
            Ok(_) => flags = RecvFlags::DONTWAIT,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

/// Sends a byte, which means nothing but "look". If the socket is full, the other side has bytes to wake up for. If it
/// has ended, the other side is gone.
pub(in crate::processes) fn send_byte(socket: &UnixStream, flags: SendFlags) {
    let _ = block::wake(|| rustix::net::send(socket, &[0], flags | SendFlags::NOSIGNAL));
}

/// Sends no more on a socket. The other side finds its end.
pub(in crate::processes) fn end_sending(socket: &UnixStream) {
    let _ = block::wake(|| socket.shutdown(Shutdown::Write));
}

/// An event that any thread can signal, and that a thread can wait for together with other descriptors.
#[derive(Debug)]
pub(in crate::processes) struct EventFd(OwnedFd);

impl EventFd {
    pub(in crate::processes) fn new() -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self(event.of_call("eventfd2")?))
    }

    /// Makes the descriptor readable.
    pub(in crate::processes) fn notify(&self) {
        notify(self.0.as_fd());
    }

    /// Makes the descriptor unreadable, until the next [`notify`](Self::notify).
    pub(in crate::processes) fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(in crate::processes) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signals the event of another process, whose descriptor this is. Returns whether it could.
pub(in crate::processes) fn notify(event: BorrowedFd<'_>) -> bool {
    // For an event of our own this fails only if the counter is full, and then the descriptor is readable.
    block::wake(|| rustix::io::write(event, &1_u64.to_ne_bytes())).is_ok()
}

/// Waits until one of the descriptors is ready or `limit` has passed.
pub(in crate::processes) fn poll(descriptors: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a deadline has passed when the wait for it ends.
    let limit = limit.map(|limit| {
        let limit = limit.saturating_add(Duration::from_micros(1));
        Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        }
    });
    match rustix::event::poll(descriptors, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).of_call("ppoll"),
    }
}

/// Makes the entry for [`poll`] that waits until `descriptor` is readable.
pub(in crate::processes) fn readable(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(descriptor, PollFlags::IN)
}

/// Waits until `descriptor` is readable, for at most `limit`. Returns whether it is. An error counts as readable, since
/// the read that follows will meet it.
pub(in crate::processes) fn is_readable_within(descriptor: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut descriptors = [readable(descriptor)];
    block::poll_within(limit, |limit| poll(&mut descriptors, Some(limit))).is_err()
        || !descriptors[0].revents().is_empty()
}

/// Makes a pipe. Its first end, from which one reads, does not block.
pub(in crate::processes) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).of_call("pipe2")?;
    rustix::io::ioctl_fionbio(&read, true).of_call("ioctl(FIONBIO)")?;
    Ok((read, write))
}

/// Reads what is in the pipe. Returns `None` if there is nothing now. Sets `ended` if nothing more can come.
pub(in crate::processes) fn read_now<'a>(
    pipe: &OwnedFd,
    buffer: &'a mut [u8],
    ended: &mut bool,
) -> Option<&'a [u8]> {
    loop {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => *ended = true,
            Ok(count) => return Some(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {}
            Err(_) => *ended = true,
        }
        return None;
    }
}

/// Sends standard output and standard error elsewhere for as long as it lives.
pub(in crate::processes) struct StdioRedirect {
    /// Copies of the usual standard output and standard error, to be put back.
    usual: [OwnedFd; 2],
}

impl StdioRedirect {
    pub(in crate::processes) fn begin(targets: &[OwnedFd; 2]) -> io::Result<Self> {
        let keep = |descriptor: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(descriptor, 3);
        let usual = [keep(rustix::stdio::stdout())?, keep(rustix::stdio::stderr())?];
        rustix::stdio::dup2_stdout(&targets[0])?;
        rustix::stdio::dup2_stderr(&targets[1])?;
        Ok(Self { usual })
    }
}

impl Drop for StdioRedirect {
    fn drop(&mut self) {
        let _ = rustix::stdio::dup2_stdout(&self.usual[0]);
        let _ = rustix::stdio::dup2_stderr(&self.usual[1]);
    }
}

/// Makes `target` the standard error of this process from now on.
pub(in crate::processes) fn replace_stderr(target: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stderr(target).of_call("dup2")
}

/// Takes the socket that this process was started with away from its standard input, and opens `/dev/null` there.
pub(in crate::processes) fn move_stdin() -> io::Result<OwnedFd> {
    let stdin = rustix::stdio::stdin();
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).of_call("fcntl(F_DUPFD_CLOEXEC)")?;
    let null = std::fs::File::open("/dev/null").of_call("open of /dev/null")?;
    rustix::stdio::dup2_stdin(&null).of_call("dup2")?;
    Ok(socket)
}
