//! One connection: a request and its response, with limits on what a client may send and on the time that it may take.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::closing::Closing;
use super::handler::{EventStream, Handler, Reply};
use super::http::{self, MAX_HEAD, Malformed};
use super::message::{Peer, Request, Response};
use crate::base::panic;

/// The time that a client has to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that a client has to take a response or one event. One that takes longer is dropped, and may come back.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest body of a request. No route needs one, but a client may send a short one all the same.
const MAX_BODY: usize = 64 * 1024;

/// The time and the number of bytes for which a client may go on to send after its response, before the connection is
/// cut. If it were cut at once, the client might not read the response.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 1 << 20);

/// The stream of a connection.
pub(super) trait Stream: Read + Write + Send {
    fn set_read_timeout(&self, limit: Duration) -> io::Result<()>;
    fn set_write_timeout(&self, limit: Duration) -> io::Result<()>;
    fn end_writing(&self);
}

impl Stream for TcpStream {
    fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        TcpStream::set_read_timeout(self, Some(limit))
    }

    fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        TcpStream::set_write_timeout(self, Some(limit))
    }

    fn end_writing(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        UnixStream::set_read_timeout(self, Some(limit))
    }

    fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        UnixStream::set_write_timeout(self, Some(limit))
    }

    fn end_writing(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// Answers one request.
pub(super) fn serve(stream: &mut dyn Stream, peer: Peer, closing: &Closing, handler: &Handler) {
    let reply = match read_request(stream) {
        Ok(Some(head)) => {
            let headers: Vec<(&str, &[u8])> =
                head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            let request = Request {
                method: &head.method,
                path: &head.path,
                query: &head.query,
                headers: &headers,
                peer,
            };
            panic::catch(|| handler.handle(&request)).unwrap_or_else(|panic| {
                panic::drop_quietly(panic);
                Reply::Response(Response::error(500, "the view itself has failed: see standard error"))
            })
        }
        // The client has gone before its request was whole.
        Ok(None) => return,
        Err(Malformed(status, text)) => Reply::Response(Response::error(status, text)),
    };
    // An error means that the client has gone, or takes nothing: there is nobody to tell.
    let _ = match reply {
        Reply::Response(response) => send(stream, &response),
        Reply::Events(events) => send_events(stream, events, closing),
    };
    linger(stream);
}

/// Answers a connection without reading its request. Does not block for long.
pub(super) fn refuse(stream: &mut dyn Stream, response: &Response) {
    // The answer fits into the empty buffer of the socket.
    if stream.set_write_timeout(Duration::from_millis(10)).is_ok() {
        let _ = send(stream, response);
    }
}

/// Reads a request, its body included, which is dropped. Returns `None` if the client goes away before.
fn read_request(stream: &mut dyn Stream) -> Result<Option<http::RequestHead>, Malformed> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut bytes = Vec::new();
    loop {
        if let Some((head, length)) = http::request(&bytes)? {
            if head.body > MAX_BODY {
                return Err(Malformed(413, "no route needs a body: send none"));
            }
            let mut missing = head.body.saturating_sub(bytes.len() - length);
            while missing > 0 {
                let mut buffer = [0; 4096];
                let room = missing.min(buffer.len());
                match read_until(stream, &mut buffer[..room], deadline)? {
                    0 => return Ok(None),
                    read => missing -= read,
                }
            }
            return Ok(Some(head));
        }
        let mut buffer = [0; 4096];
        let room = (MAX_HEAD - bytes.len()).min(buffer.len());
        match read_until(stream, &mut buffer[..room], deadline)? {
            0 => return Ok(None),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Reads some bytes before the deadline. Returns 0 if the client has gone.
fn read_until(stream: &mut dyn Stream, buffer: &mut [u8], deadline: Instant) -> Result<usize, Malformed> {
    const LATE: Malformed = Malformed(408, "the request was not whole in time: send it again, at once");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LATE);
        }
        if stream.set_read_timeout(left).is_err() {
            return Ok(0);
        }
        match stream.read(buffer) {
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Err(LATE),
            Err(_) => return Ok(0),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Writes all bytes within the time that a client has for it. A client that takes a few bytes now and then does not get
/// more.
fn write_in_time(stream: &mut dyn Stream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + RESPONSE_TIMEOUT;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(left)?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send(stream: &mut dyn Stream, response: &Response) -> io::Result<()> {
    let mut bytes = http::head(response.status, &response.headers, Some(response.body.len()));
    bytes.extend_from_slice(&response.body);
    write_in_time(stream, &bytes)
}

fn send_events(stream: &mut dyn Stream, mut events: EventStream, closing: &Closing) -> io::Result<()> {
    write_in_time(stream, &http::head(200, &events.headers(), None))?;
    loop {
        write_in_time(stream, &events.event())?;
        if closing.wait(events.interval()) {
            return Ok(());
        }
    }
}

/// Lets the client read the response before the connection is cut.
fn linger(stream: &mut dyn Stream) {
    stream.end_writing();
    let (limit, mut room) = LINGER;
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 4096];
    while room > 0 {
        match read_until(stream, &mut buffer, deadline) {
            Ok(read) if read > 0 => room = room.saturating_sub(read),
            _ => return,
        }
    }
}
