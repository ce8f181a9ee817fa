//! The positions of what a stack consists of in the interpreter's memory.
//!
//! From 3.13 on the interpreter publishes them at the beginning of its runtime state, for tools like this one. Those of
//! 3.11 and 3.12 do not change any more. Whether all of it holds is tried before it is used; see [`super::Stacks`].

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::memory::Memory;
use crate::interpreter;

/// Offsets in bytes, and the addresses of objects that stay where they are.
#[derive(Clone)]
pub(super) struct Layout {
    /// An address in the code of the interpreter.
    pub(super) code_address: usize,
    /// The address of the pointer to the first interpreter.
    pub(super) interpreters: usize,
    pub(super) next_interpreter: usize,
    /// The first thread in an interpreter.
    pub(super) threads: usize,
    pub(super) next_thread: usize,
    /// The id that `threading` has for a thread, in a thread.
    pub(super) ident: usize,
    /// The system's id in a thread. In Python 3.11, the main thread of a forked child has that of the thread that has forked.
    pub(super) native_id: usize,
    /// The pointer to the innermost frame in a thread, or in the structure that the thread points to here.
    pub(super) cframe: Option<usize>,
    pub(super) current_frame: usize,
    pub(super) gil: Gil,
    pub(super) frame: FrameLayout,
    pub(super) code: CodeLayout,
    /// The type in an object.
    pub(super) kind: usize,
    pub(super) bytes_length: usize,
    pub(super) bytes_data: usize,
    pub(super) text_state: usize,
    pub(super) text_length: usize,
    /// The characters of a string that is ASCII, and of another one.
    pub(super) ascii_data: usize,
    pub(super) text_data: usize,
    pub(super) types: Types,
}

/// The interpreter's lock.
#[derive(Clone, Copy)]
pub(super) struct Gil {
    pub(super) place: GilPlace,
    pub(super) locked: usize,
    pub(super) holder: usize,
}

#[derive(Clone, Copy)]
pub(super) enum GilPlace {
    /// At this address.
    At(usize),
    /// At the address in this word of the first interpreter.
    Behind(usize),
    /// In the first interpreter.
    Interpreter,
}

#[derive(Clone, Copy)]
pub(super) struct FrameLayout {
    pub(super) previous: usize,
    pub(super) executable: usize,
    /// The pointer to the instruction that is executed. In 3.11 and 3.12 it may point to the last code unit of it.
    pub(super) instruction: usize,
    pub(super) locals: usize,
    pub(super) owner: usize,
}

#[derive(Clone, Copy)]
pub(super) struct CodeLayout {
    pub(super) filename: usize,
    pub(super) name: usize,
    pub(super) qualname: usize,
    pub(super) linetable: usize,
    pub(super) first_line: usize,
    pub(super) flags: usize,
    pub(super) instructions: usize,
}

/// The addresses of types.
#[derive(Clone, Copy)]
pub(super) struct Types {
    pub(super) code: usize,
    pub(super) text: usize,
    pub(super) bytes: usize,
}

/// The positions of groups of offsets among those that the interpreter publishes, in words.
struct Groups {
    gil: usize,
    thread: usize,
    /// The offset of the system's id, within the thread's group. That of the other id precedes it.
    native_id: usize,
    frame: usize,
    code: usize,
    object: usize,
    bytes: usize,
    text: usize,
}

/// The number of words that are read of what the interpreter publishes: the largest of these versions has more.
const PUBLISHED: usize = 93;

/// No offset is larger than this. The runtime state and an interpreter have some hundred KiB.
const LARGEST: usize = 1 << 22;

impl Layout {
    /// Returns the layout of this interpreter. Fails if it is not known.
    pub(super) fn find(py: Python<'_>, memory: &Memory) -> PyResult<Self> {
        let version = py.version_info();
        let unknown = |what: &str| {
            PyRuntimeError::new_err(format!(
                "stacks cannot be read in Python {}.{}: {what}",
                version.major, version.minor
            ))
        };
        if cfg!(not(target_pointer_width = "64")) {
            return Err(unknown("it is not a 64-bit program"));
        }
        let runtime = interpreter::find(c"_PyRuntime")
            .ok_or_else(|| unknown("this interpreter does not export its runtime state"))?
            .addr();
        let code_address = interpreter::find(c"Py_IsInitialized")
            .ok_or_else(|| unknown("this interpreter does not export its functions"))?
            .addr();
        let types = Types {
            code: py.import("types")?.getattr("CodeType")?.as_ptr().addr(),
            text: py.get_type::<PyString>().as_ptr().addr(),
            bytes: py.get_type::<PyBytes>().as_ptr().addr(),
        };
        match (version.major, version.minor) {
            (3, 11) => Ok(Self::v3_11(code_address, runtime, types)),
            (3, 12) => Ok(Self::v3_12(code_address, runtime, types)),
            (3, minor @ 13..=15) => Self::published(code_address, runtime, minor, types, memory)
                .ok_or_else(|| unknown("it publishes no layout of its memory that is known")),
            _ => Err(unknown("the layout of its memory is not known")),
        }
    }

    /// Returns the layout of the same interpreter in another process, where it is loaded so many bytes further on.
    pub(super) fn moved(&self, by: usize) -> Self {
        let moved = |address: usize| address.wrapping_add(by);
        let Gil { place, locked, holder } = self.gil;
        let place = match place {
            GilPlace::At(address) => GilPlace::At(moved(address)),
            GilPlace::Behind(_) | GilPlace::Interpreter => place,
        };
        let Types { code, text, bytes } = self.types;
        Self {
            code_address: moved(self.code_address),
            interpreters: moved(self.interpreters),
            gil: Gil { place, locked, holder },
            types: Types { code: moved(code), text: moved(text), bytes: moved(bytes) },
            ..self.clone()
        }
    }

    fn v3_11(code_address: usize, runtime: usize, types: Types) -> Self {
        Self {
            code_address,
            interpreters: runtime + 40,
            next_interpreter: 0,
            threads: 16,
            next_thread: 8,
            ident: 152,
            native_id: 160,
            cframe: Some(56),
            current_frame: 8,
            gil: Gil { place: GilPlace::At(runtime), locked: 376, holder: 368 },
            frame: FrameLayout { previous: 48, executable: 32, instruction: 56, locals: 72, owner: 69 },
            code: CodeLayout {
                filename: 112,
                name: 120,
                qualname: 128,
                linetable: 136,
                first_line: 72,
                flags: 48,
                instructions: 184,
            },
            kind: 8,
            bytes_length: 16,
            bytes_data: 32,
            text_state: 32,
            text_length: 16,
            ascii_data: 48,
            text_data: 72,
            types,
        }
    }

    fn v3_12(code_address: usize, runtime: usize, types: Types) -> Self {
        let before = Self::v3_11(code_address, runtime, types);
        Self {
            threads: 72,
            ident: 136,
            native_id: 144,
            current_frame: 0,
            gil: Gil { place: GilPlace::Behind(384), locked: 16, holder: 8 },
            frame: FrameLayout { previous: 8, executable: 0, owner: 70, ..before.frame },
            code: CodeLayout { first_line: 68, instructions: 192, ..before.code },
            ascii_data: 40,
            text_data: 56,
            ..before
        }
    }

    /// Reads what the interpreter publishes.
    fn published(
        code_address: usize,
        runtime: usize,
        minor: u8,
        types: Types,
        memory: &Memory,
    ) -> Option<Self> {
        let groups = match minor {
            13 => Groups {
                gil: 17,
                thread: 19,
                native_id: 6,
                frame: 28,
                code: 34,
                object: 44,
                bytes: 64,
                text: 67,
            },
            14 => Groups {
                gil: 18,
                thread: 22,
                native_id: 6,
                frame: 31,
                code: 39,
                object: 50,
                bytes: 74,
                text: 77,
            },
            _ => Groups {
                gil: 18,
                thread: 22,
                native_id: 9,
                frame: 39,
                code: 47,
                object: 58,
                bytes: 86,
                text: 89,
            },
        };
        let mut published = [0; PUBLISHED * size_of::<u64>()];
        memory.read(runtime, &mut published)?;
        let words: Vec<u64> = published
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
            .collect();
        let is_ours = published.starts_with(b"xdebugpy")
            && words[1] >> 16 == (3 << 8 | u64::from(minor))
            // Without the interpreter's lock frames are tagged in other ways.
            && words[2] == 0;
        if !is_ours {
            return None;
        }
        let offset = |word: usize| usize::try_from(words[word]).ok().filter(|offset| *offset < LARGEST);
        Some(Self {
            code_address,
            interpreters: runtime + offset(5)?,
            next_interpreter: offset(8)?,
            threads: offset(9)?,
            next_thread: offset(groups.thread + 2)?,
            ident: offset(groups.thread + groups.native_id - 1)?,
            native_id: offset(groups.thread + groups.native_id)?,
            cframe: None,
            current_frame: offset(groups.thread + 4)?,
            gil: Gil {
                place: GilPlace::Interpreter,
                locked: offset(groups.gil)?,
                holder: offset(groups.gil + 1)?,
            },
            frame: FrameLayout {
                previous: offset(groups.frame + 1)?,
                executable: offset(groups.frame + 2)?,
                instruction: offset(groups.frame + 3)?,
                locals: offset(groups.frame + 4)?,
                owner: offset(groups.frame + 5)?,
            },
            code: CodeLayout {
                filename: offset(groups.code + 1)?,
                name: offset(groups.code + 2)?,
                qualname: offset(groups.code + 3)?,
                linetable: offset(groups.code + 4)?,
                first_line: offset(groups.code + 5)?,
                // It is not published. It stands there in all of these versions.
                flags: 48,
                instructions: offset(groups.code + 9)?,
            },
            kind: offset(groups.object + 1)?,
            bytes_length: offset(groups.bytes + 1)?,
            bytes_data: offset(groups.bytes + 2)?,
            text_state: offset(groups.text + 1)?,
            text_length: offset(groups.text + 2)?,
            ascii_data: offset(groups.text + 3)?,
            // Two more words than one that is ASCII.
            text_data: offset(groups.text + 3)? + 16,
            types,
        })
    }
}
