//! The frames of a link: a fixed header, then a payload.
//!
//! ```text
//! offset  0        4         5        8              16
//!         length   kind      zero     job            payload of `length` bytes
//!         u32 LE   u8        3 bytes  u64 LE
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};

use serde::{Deserialize, Serialize};

pub(super) const HEADER: usize = 16;

/// What a frame says. Requests go to a worker, the rest comes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// To the worker: run a task. Payload: its index, u32 LE, then its arguments.
    Run = 1,
    /// A worker's first frame. Payload: [`Hello`].
    Hello = 2,
    /// The result. Payload: as encoded by the task.
    Done = 3,
    /// The task panicked. Payload: [`PanicNote`].
    Panicked = 4,
    /// The arguments did not decode. Payload: the reason, UTF-8.
    BadArguments = 5,
    /// The result did not encode. Payload: the reason, UTF-8.
    BadResult = 6,
}

impl Kind {
    /// Whether it ends a request.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Done | Self::Panicked | Self::BadArguments | Self::BadResult)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Run,
            2 => Self::Hello,
            3 => Self::Done,
            4 => Self::Panicked,
            5 => Self::BadArguments,
            6 => Self::BadResult,
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) job: u64,
    pub(super) payload: Vec<u8>,
}

/// How a worker introduces itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) fingerprint: u64,
}

/// Changes with every change of the frames.
pub(super) const PROTOCOL: u32 = 1;

/// A panic as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PanicNote {
    pub(super) message: String,
    pub(super) place: Option<String>,
    pub(super) backtrace: Option<String>,
}

/// A frame that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame that claims {length} bytes, where at most {limit} are allowed")]
    Length { length: u32, limit: u32 },
}

#[derive(Clone, Copy)]
struct Header {
    kind: Kind,
    job: u64,
    length: u32,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[8..].copy_from_slice(&self.job.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; HEADER], limit: u32) -> Result<Self, Malformed> {
        let [a, b, c, d, kind, _, _, _, job @ ..] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length > limit {
            return Err(Malformed::Length { length, limit });
        }
        let kind = Kind::from_byte(kind).ok_or(Malformed::Kind(kind))?;
        Ok(Self { kind, job: u64::from_le_bytes(job), length })
    }
}

/// Puts a byte stream together again. It never allocates what a frame merely claims to carry: its memory
/// grows with the bytes that have arrived.
#[derive(Debug)]
pub(super) struct Reader {
    limit: u32,
    /// Only `start..end` are bytes that were read and not used yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// How much is asked of the source at a time, at least.
const CHUNK: usize = 64 * 1024;

impl Reader {
    /// Refuses frames whose payload exceeds `limit` bytes.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, buffer: Vec::new(), start: 0, end: 0 }
    }

    /// The next complete frame among the bytes read so far.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Malformed> {
        let pending = &self.buffer[self.start..self.end];
        let Some(header) = pending.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::decode(*header, self.limit)?;
        let length = HEADER + header.length as usize;
        if pending.len() < length {
            return Ok(None);
        }
        let payload = if self.start == 0 && length > CHUNK && pending.len() == length {
            // A large frame alone in the buffer: the buffer becomes its payload.
            let mut payload = std::mem::take(&mut self.buffer);
            payload.truncate(length);
            payload.drain(..HEADER);
            self.end = 0;
            payload
        } else {
            let payload = pending[HEADER..length].to_vec();
            self.start += length;
            payload
        };
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(Frame { kind: header.kind, job: header.job, payload }))
    }

    /// Reads once from `source`. Says how many bytes came; 0 is the end of the stream.
    pub(super) fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < CHUNK {
            // Growing by halves keeps large frames linear; a claim alone grows nothing.
            self.buffer.resize(self.end + CHUNK.max(self.end / 2), 0);
        }
        let count = source.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }
}

/// Frames on their way to a non-blocking sink.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Header and payload of each frame.
    frames: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// How much of the first frame is written.
    written: usize,
}

impl Writer {
    /// Appends a frame. `prefix` goes before `payload`, so that a large payload is not moved for it.
    pub(super) fn push(&mut self, kind: Kind, job: u64, prefix: &[u8], payload: Vec<u8>) {
        let length = u32::try_from(prefix.len() + payload.len()).expect("payloads are checked on submission");
        let mut head = Header { kind, job, length }.encode().to_vec();
        head.extend_from_slice(prefix);
        self.frames.push_back((head, payload));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes until all is written or the sink is full (`WouldBlock` is not an error here).
    pub(super) fn flush(&mut self, sink: &mut impl Write) -> io::Result<()> {
        while let Some((head, payload)) = self.frames.front() {
            let head_left = head.get(self.written..).unwrap_or(&[]);
            let payload_left = &payload[self.written.saturating_sub(head.len())..];
            match sink.write_vectored(&[IoSlice::new(head_left), IoSlice::new(payload_left)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) if count == head_left.len() + payload_left.len() => {
                    self.frames.pop_front();
                    self.written = 0;
                }
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A source that gives what it has in pieces of the given sizes.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: std::vec::IntoIter<usize>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes.next().unwrap_or(usize::MAX).max(1);
            let count = size.min(buffer.len()).min(self.bytes.len());
            buffer[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    fn frames() -> impl Strategy<Value = Vec<(u8, u64, Vec<u8>)>> {
        let payload = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            (60_000usize..200_000).prop_map(|length| vec![7; length]),
        ];
        proptest::collection::vec((1u8..=6, any::<u64>(), payload), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_however_the_stream_is_cut(
            frames in frames(),
            sizes in proptest::collection::vec(1usize..50_000, 0..40),
        ) {
            let mut writer = Writer::default();
            for (kind, job, payload) in &frames {
                let (prefix, rest) = payload.split_at(payload.len().min(4));
                writer.push(Kind::from_byte(*kind).unwrap(), *job, prefix, rest.to_vec());
            }
            let mut stream = Vec::new();
            writer.flush(&mut stream).unwrap();

            let mut reader = Reader::new(1 << 20);
            let mut source = Pieces { bytes: &stream, sizes: sizes.into_iter() };
            let mut read = Vec::new();
            loop {
                while let Some(frame) = reader.next().unwrap() {
                    read.push((frame.kind as u8, frame.job, frame.payload));
                }
                if reader.fill(&mut source).unwrap() == 0 {
                    break;
                }
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn garbage_is_an_error_or_a_frame_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = Reader::new(300);
            let mut source = &bytes[..];
            while reader.fill(&mut source).unwrap() > 0 {}
            while let Ok(Some(frame)) = reader.next() {
                prop_assert!(frame.payload.len() <= 300);
            }
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let header = Header { kind: Kind::Done, job: 1, length: u32::MAX - 1 }.encode();
        let mut reader = Reader::new(u32::MAX);
        reader.fill(&mut &header[..]).unwrap();
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.buffer.capacity() <= 2 * CHUNK, "{}", reader.buffer.capacity());
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_come() {
        let header = Header { kind: Kind::Done, job: 1, length: 1001 }.encode();
        let mut reader = Reader::new(1000);
        reader.fill(&mut &header[..]).unwrap();
        assert_eq!(reader.next(), Err(Malformed::Length { length: 1001, limit: 1000 }));
    }
}
