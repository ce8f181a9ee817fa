//! The walk along the frames of a thread that may go on meanwhile.

use super::layout::{GilPlace, Layout};
use super::lines;
use super::memory::{Memory, Snapshot};

/// The number of interpreters, threads and frames from which on a chain is not followed: it is deeper than any real
/// one, or leads in a circle.
const INTERPRETERS: usize = 1_000;
const THREADS: usize = 100_000;
const FRAMES: usize = 100_000;

/// The numbers of innermost and of outermost frames that are described. Those between them are left out.
const INNERMOST: usize = 100;
const OUTERMOST: usize = 300;

/// The number of times that a chain is read, until it is the same twice in a row.
const ATTEMPTS: usize = 4;

/// The longest string, table and code that are read, in bytes. Larger ones are garbage.
const LONGEST_TEXT: usize = 16 << 10;
const LARGEST_TABLE: usize = 8 << 20;

/// The owners of a frame from which on it is the interpreter's own, and is none of a function.
const OWNED_BY_INTERPRETER: u8 = 3;

/// A frame as it was found.
#[derive(Clone, Copy)]
struct Link {
    address: usize,
    code: usize,
    instruction: usize,
    previous: usize,
    owner: u8,
    local: usize,
}

impl Link {
    /// Returns whether both are the same call, although it may have gone on.
    fn is_same_call(&self, other: &Self) -> bool {
        (self.address, self.code, self.previous) == (other.address, other.code, other.previous)
    }
}

/// A frame, described.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) qualname: String,
    pub(super) first_line: i32,
    pub(super) flags: i32,
    pub(super) position: Option<lines::Position>,
    /// Numbers that tell this call from others: the addresses of the frame, of the code and of its first local variable.
    pub(super) call: (usize, usize, usize),
}

/// A thread, as it is looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ThreadKey {
    /// The thread with this id in `threading`. A forked child's main thread keeps it.
    Ident(u64),
    /// The thread with this id of the system.
    Tid(i32),
    /// The main thread: of those that are left, the interpreter has had it for the longest time.
    Main,
}

/// The ids of a thread, as the interpreter has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadIds {
    /// That of `threading`.
    pub(crate) ident: u64,
    /// That of the system. In a forked child of Python 3.11, the main thread's is wrong.
    pub(crate) tid: i32,
}

pub(super) struct Walker {
    pub(super) memory: Memory,
    pub(super) layout: Layout,
}

impl Walker {
    /// Returns the frames of a thread, the outermost first. `None` if the thread is not known, or if its frames cannot
    /// be read. The innermost frames are missing if they change faster than they can be read.
    pub(super) fn stack(&self, key: ThreadKey) -> Option<Vec<Described>> {
        let (thread, ids) = self.thread(key)?;
        let links = self.links(thread)?;
        // The thread may have ended meanwhile, and its memory may be that of another one.
        if self.ids(thread) != Some(ids) {
            return None;
        }
        let functions: Vec<_> = links.iter().filter(|link| link.owner < OWNED_BY_INTERPRETER).collect();
        let left_out = OUTERMOST..functions.len().saturating_sub(INNERMOST);
        let described = functions.iter().enumerate().filter(|(at, _)| !left_out.contains(at));
        let mut snapshot = Snapshot::new(&self.memory);
        // What cannot be read is gone by now, and so is what it has called.
        Some(described.map_while(|(_, link)| self.describe(&mut snapshot, link)).collect())
    }

    /// Returns the thread that has the interpreter. `None` if no thread has it.
    pub(super) fn holder(&self) -> Option<ThreadIds> {
        let gil = self.layout.gil;
        let interpreter = || self.memory.word(self.layout.interpreters);
        let base = match gil.place {
            GilPlace::At(address) => address,
            GilPlace::Behind(offset) => self.memory.word(interpreter()?.checked_add(offset)?)?,
            GilPlace::Interpreter => interpreter()?,
        };
        let is_locked = self.memory.number(base.checked_add(gil.locked)?)? == 1;
        let holder = self.memory.word(base.checked_add(gil.holder)?)?;
        if !is_locked || holder == 0 {
            return None;
        }
        self.ids(holder)
    }

    fn ids(&self, thread: usize) -> Option<ThreadIds> {
        let word = |offset: usize| self.memory.word(thread.checked_add(offset)?);
        let ident = u64::try_from(word(self.layout.ident)?).ok()?;
        Some(ThreadIds { ident, tid: i32::try_from(word(self.layout.native_id)?).ok()? })
    }

    /// Returns the address of a thread's state, and its ids.
    fn thread(&self, key: ThreadKey) -> Option<(usize, ThreadIds)> {
        let mut interpreter = self.memory.word(self.layout.interpreters)?;
        // Each new interpreter is the first one, and so is each new thread in it.
        let mut oldest = None;
        for _ in 0..INTERPRETERS {
            if interpreter == 0 {
                return oldest.filter(|_| matches!(key, ThreadKey::Main));
            }
            let mut thread = self.memory.word(interpreter.checked_add(self.layout.threads)?)?;
            for _ in 0..THREADS {
                if thread == 0 {
                    break;
                }
                let ids = self.ids(thread)?;
                let is_found = match key {
                    ThreadKey::Ident(ident) => ids.ident == ident,
                    ThreadKey::Tid(tid) => ids.tid == tid,
                    ThreadKey::Main => false,
                };
                if is_found {
                    return Some((thread, ids));
                }
                oldest = Some((thread, ids));
                thread = self.memory.word(thread.checked_add(self.layout.next_thread)?)?;
            }
            interpreter = self.memory.word(interpreter.checked_add(self.layout.next_interpreter)?)?;
        }
        None
    }

    /// Returns the chain of a thread's frames, the outermost first: as it is when it is the same twice in a row, or the
    /// longest outer part of it that was.
    fn links(&self, thread: usize) -> Option<Vec<Link>> {
        let mut best: Option<Vec<Link>> = None;
        let mut last = self.chain(thread);
        for _ in 0..ATTEMPTS {
            let now = self.chain(thread);
            if let (Some(last), Some(now)) = (&last, &now) {
                let alike = last.iter().zip(now).take_while(|(one, other)| one.is_same_call(other)).count();
                if alike == now.len() && alike == last.len() {
                    return Some(now.clone());
                }
                if best.as_ref().is_none_or(|best| alike > best.len()) {
                    best = Some(now[..alike].to_vec());
                }
            }
            last = now;
        }
        best
    }

    /// Reads the chain once, which may be inconsistent. The outermost frame comes first.
    fn chain(&self, thread: usize) -> Option<Vec<Link>> {
        let holds = match self.layout.cframe {
            Some(offset) => self.memory.word(thread.checked_add(offset)?)?,
            None => thread,
        };
        let mut address = self.memory.word(holds.checked_add(self.layout.current_frame)?)?;
        let mut snapshot = Snapshot::new(&self.memory);
        let mut links = Vec::new();
        while address != 0 {
            if links.len() >= FRAMES {
                return None;
            }
            let link = self.link(&mut snapshot, address)?;
            address = link.previous;
            links.push(link);
        }
        links.reverse();
        Some(links)
    }

    fn link(&self, snapshot: &mut Snapshot<'_>, address: usize) -> Option<Link> {
        let layout = &self.layout.frame;
        let frame = Block::<128>::read(snapshot, address);
        Some(Link {
            address,
            // The lowest bits tell how the reference is counted.
            code: frame.word(layout.executable)? & !3,
            instruction: frame.word(layout.instruction)?,
            previous: frame.word(layout.previous)?,
            owner: *frame.known().get(layout.owner)?,
            local: frame.word(layout.locals)? & !3,
        })
    }

    /// Describes a frame. `None` if it does not refer to a code object.
    fn describe(&self, snapshot: &mut Snapshot<'_>, link: &Link) -> Option<Described> {
        let layout = &self.layout.code;
        let code = Block::<256>::read(snapshot, link.code);
        if code.word(self.layout.kind)? != self.layout.types.code {
            return None;
        }
        let first_line = code.number(layout.first_line)?;
        let table = self.bytes(snapshot, code.word(layout.linetable)?)?;
        let begin = link.code.checked_add(layout.instructions)?;
        let unit = link.instruction.checked_sub(begin).map(|offset| offset / 2);
        Some(Described {
            file: self.text(snapshot, code.word(layout.filename)?)?,
            name: self.text(snapshot, code.word(layout.name)?)?,
            qualname: self.text(snapshot, code.word(layout.qualname)?)?,
            first_line,
            flags: code.number(layout.flags)?,
            position: unit.and_then(|unit| lines::position(&table, first_line, unit)),
            call: (link.address, link.code, link.local),
        })
    }

    /// Returns the value of a `bytes` object.
    fn bytes(&self, snapshot: &mut Snapshot<'_>, object: usize) -> Option<Vec<u8>> {
        let head = Block::<64>::read(snapshot, object);
        if head.word(self.layout.kind)? != self.layout.types.bytes {
            return None;
        }
        let length = head.word(self.layout.bytes_length)?;
        block(snapshot, object.checked_add(self.layout.bytes_data)?, length, LARGEST_TABLE)
    }

    /// Returns the value of a string.
    fn text(&self, snapshot: &mut Snapshot<'_>, object: usize) -> Option<String> {
        const ONE_BLOCK: u32 = 1 << 5;
        const ASCII: u32 = 1 << 6;
        let head = Block::<64>::read(snapshot, object);
        if head.word(self.layout.kind)? != self.layout.types.text {
            return None;
        }
        let state = u32::from_ne_bytes(head.number(self.layout.text_state)?.to_ne_bytes());
        if state & ONE_BLOCK == 0 {
            return None;
        }
        let data = if state & ASCII != 0 { self.layout.ascii_data } else { self.layout.text_data };
        let width = usize::try_from(state >> 2 & 7).ok()?;
        let length = head.word(self.layout.text_length)?.checked_mul(width)?;
        let bytes = block(snapshot, object.checked_add(data)?, length, LONGEST_TEXT)?;
        let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        match width {
            1 => Some(bytes.iter().copied().map(char::from).collect()),
            2 => {
                let units = bytes.chunks_exact(2).map(|unit| u16::from_ne_bytes([unit[0], unit[1]]));
                Some(units.map(|unit| character(u32::from(unit))).collect())
            }
            4 => {
                let units = bytes.chunks_exact(4);
                let units = units.map(|unit| u32::from_ne_bytes([unit[0], unit[1], unit[2], unit[3]]));
                Some(units.map(character).collect())
            }
            _ => None,
        }
    }
}

/// Returns so many bytes from the address on. `None` if there are more than `most`.
fn block(snapshot: &mut Snapshot<'_>, address: usize, length: usize, most: usize) -> Option<Vec<u8>> {
    if length > most {
        return None;
    }
    let mut bytes = vec![0; length];
    snapshot.read(address, &mut bytes)?;
    Some(bytes)
}

/// The beginning of an object, as far as there is memory.
struct Block<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Block<N> {
    fn read(snapshot: &mut Snapshot<'_>, address: usize) -> Self {
        let mut bytes = [0; N];
        let length = snapshot.read_some(address, &mut bytes);
        Self { bytes, length }
    }

    fn known(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn word(&self, offset: usize) -> Option<usize> {
        let word = self.known().get(offset..)?.first_chunk()?;
        Some(usize::from_ne_bytes(*word))
    }

    fn number(&self, offset: usize) -> Option<i32> {
        let number = self.known().get(offset..)?.first_chunk()?;
        Some(i32::from_ne_bytes(*number))
    }
}
