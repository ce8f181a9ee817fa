//! Tarantool. There is no well-kept blocking connector for it in Rust, so this is the part of its binary protocol that
//! the functions need: a frame is its length and two maps with numbers for keys, all of it `MessagePack`.
//!
//! The server is that of `python/examples/tarantool.lua`, whose function `slow` ends when its client hangs up. The other
//! functions are sent with the call.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::catalog::Function;
use super::connection::{Call, CallError, Canceller, Connection, has_hung_up};

/// The longest time that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The length of what the server says first.
const GREETING: usize = 128;

/// The longest answer, in bytes. A larger number means that the other side does not follow the protocol.
const MAX_ANSWER: u32 = 16 * 1024 * 1024;

/// The numbers of the protocol.
mod iproto {
    pub(super) const REQUEST_TYPE: u8 = 0x00;
    pub(super) const SYNC: u8 = 0x01;
    pub(super) const TUPLE: u8 = 0x21;
    pub(super) const EXPRESSION: u8 = 0x27;
    pub(super) const DATA: u8 = 0x30;
    pub(super) const ERROR: u8 = 0x31;
    pub(super) const EVAL: u64 = 8;
    /// The first byte of a length that is written as four bytes.
    pub(super) const UINT_32: u8 = 0xce;
}

pub(super) struct TarantoolConnection {
    stream: TcpStream,
    /// The number of the last call. The answer has the same.
    sync: u64,
}

impl TarantoolConnection {
    pub(super) fn open(address: &str) -> Result<Self, CallError> {
        let open = || {
            let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
            let mut greeting = [0; GREETING];
            stream.read_exact(&mut greeting)?;
            if !greeting.starts_with(b"Tarantool") {
                return Err(io::Error::other("it is no Tarantool"));
            }
            stream.set_read_timeout(None)?;
            Ok(Self { stream, sync: 0 })
        };
        open().map_err(|error: io::Error| CallError::Down(error.to_string()))
    }

    fn send(&mut self, call: &Call) -> io::Result<()> {
        self.sync += 1;
        let header = BTreeMap::from([(iproto::REQUEST_TYPE, iproto::EVAL), (iproto::SYNC, self.sync)]);
        let script = Value::from(script(call.function));
        let body = BTreeMap::from([(iproto::EXPRESSION, script), (iproto::TUPLE, sent(call).into())]);
        let mut frame = vec![iproto::UINT_32, 0, 0, 0, 0];
        rmp_serde::encode::write(&mut frame, &header).map_err(io::Error::other)?;
        rmp_serde::encode::write(&mut frame, &body).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - 5).map_err(io::Error::other)?;
        frame[1..5].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)
    }

    fn receive(&mut self) -> io::Result<Body> {
        let mut length = [0; 5];
        self.stream.read_exact(&mut length)?;
        let [iproto::UINT_32, length @ ..] = length else {
            return Err(io::Error::other("an answer without its length"));
        };
        let length = u32::from_be_bytes(length);
        if length > MAX_ANSWER {
            return Err(io::Error::other(format!("an answer of {length} bytes")));
        }
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = frame.as_slice();
        let header: BTreeMap<u8, u64> = rmp_serde::from_read(&mut frame).map_err(io::Error::other)?;
        if header.get(&iproto::SYNC) != Some(&self.sync) {
            return Err(io::Error::other("an answer to another call"));
        }
        rmp_serde::from_read(frame).map_err(io::Error::other)
    }
}

impl Connection for TarantoolConnection {
    fn call(&mut self, call: &Call) -> Result<Value, CallError> {
        let answer = self.send(call).and_then(|()| self.receive());
        let body = answer.map_err(|error| CallError::Lost(error.to_string()))?;
        if let Some(error) = body.error {
            return Err(CallError::Function(error));
        }
        let value = body.data.into_iter().next().unwrap_or_default();
        Ok(received(call.function, value))
    }

    /// The protocol has no request that cancels a call. The server's functions end when their client hangs up.
    fn canceller(&self) -> Result<Canceller, CallError> {
        let socket = self.stream.try_clone().map_err(|error| CallError::Lost(error.to_string()))?;
        Ok(Box::new(move || {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }))
    }

    fn is_lost(&mut self) -> bool {
        has_hung_up(&self.stream).unwrap_or(true)
    }
}

/// The second map of an answer: results, or an error.
#[derive(Default)]
struct Body {
    data: Vec<Value>,
    error: Option<String>,
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with numbers for keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut body = Body::default();
        while let Some(key) = map.next_key::<u8>()? {
            match key {
                iproto::DATA => body.data = map.next_value()?,
                iproto::ERROR => body.error = Some(map.next_value()?),
                // Newer servers describe an error once more, in detail.
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(body)
    }
}

const fn script(function: Function) -> &'static str {
    match function {
        // As JSON text, since Lua has no `null` in a table.
        Function::Echo => "return (...)",
        Function::Add => "local a, b = ... return a + b",
        Function::Slow => "local ms = ... return slow(ms / 1000, ms)",
        Function::Fail => "error((...), 0)",
        Function::Big => "return string.rep('x', (...))",
        Function::Running => "return running()",
    }
}

fn sent(call: &Call) -> Vec<Value> {
    match (call.function, call.arguments.as_slice()) {
        (Function::Echo, [value]) => vec![value.to_string().into()],
        (_, arguments) => arguments.to_vec(),
    }
}

fn received(function: Function, value: Value) -> Value {
    match (function, &value) {
        (Function::Echo, Value::String(json)) => serde_json::from_str(json).unwrap_or(value),
        _ => value,
    }
}
