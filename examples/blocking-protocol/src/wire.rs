//! The format of messages. A frame is a size (4 bytes, big endian) and that number of bytes: a tag, then texts. Each
//! text follows its own size.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::client::CallError;

/// The parameters or the results of a call, by name.
pub type Parameters = BTreeMap<String, String>;

/// The largest size of a frame. A larger number means that the other side does not follow the protocol.
const MAX_FRAME: u32 = 1 << 20;

pub(crate) enum Message {
    Call { function: String, parameters: Parameters },
    Results(Parameters),
    Failure { key: String, message: String },
}

impl Message {
    pub(crate) fn write(&self, mut to: impl Write) -> Result<(), CallError> {
        let mut frame = vec![0; 4];
        match self {
            Self::Call { function, parameters } => {
                frame.push(b'C');
                push(&mut frame, [function]);
                push(&mut frame, pairs(parameters));
            }
            Self::Results(results) => {
                frame.push(b'R');
                push(&mut frame, pairs(results));
            }
            Self::Failure { key, message } => {
                frame.push(b'F');
                push(&mut frame, [key, message]);
            }
        }
        let size = u32::try_from(frame.len() - 4).ok().filter(|size| *size <= MAX_FRAME);
        let size = size.ok_or_else(|| CallError::Protocol("the message is too large".to_owned()))?;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        to.write_all(&frame).map_err(CallError::Lost)
    }

    pub(crate) fn read(mut from: impl Read) -> Result<Self, CallError> {
        let mut size = [0; 4];
        from.read_exact(&mut size).map_err(CallError::Lost)?;
        let size = u32::from_be_bytes(size);
        if size > MAX_FRAME {
            return Err(CallError::Protocol(format!("a frame of {size} bytes")));
        }
        let mut frame = Vec::new();
        from.take(size.into()).read_to_end(&mut frame).map_err(CallError::Lost)?;
        if frame.len() < size as usize {
            return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        Self::decode(&frame).ok_or_else(|| CallError::Protocol("a frame that cannot be decoded".to_owned()))
    }

    fn decode(frame: &[u8]) -> Option<Self> {
        let (tag, rest) = frame.split_first()?;
        let mut texts = texts(rest)?.into_iter();
        match tag {
            b'C' => Some(Self::Call { function: texts.next()?, parameters: by_name(texts)? }),
            b'R' => Some(Self::Results(by_name(texts)?)),
            b'F' => Some(Self::Failure { key: texts.next()?, message: texts.next()? }),
            _ => None,
        }
    }
}

fn pairs(parameters: &Parameters) -> impl Iterator<Item = &String> {
    parameters.iter().flat_map(|(name, value)| [name, value])
}

fn push<'a>(frame: &mut Vec<u8>, texts: impl IntoIterator<Item = &'a String>) {
    for text in texts {
        // If the size of a text does not fit, the frame is larger than `MAX_FRAME` and is refused.
        frame.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend(text.as_bytes());
    }
}

fn texts(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (size, rest) = bytes.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        texts.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    Some(texts)
}

fn by_name(mut texts: impl Iterator<Item = String>) -> Option<Parameters> {
    let mut parameters = Parameters::new();
    while let Some(name) = texts.next() {
        parameters.insert(name, texts.next()?);
    }
    Some(parameters)
}
