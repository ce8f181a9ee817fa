//! Finds the calls in a copy of a stack, and their names.

use std::ffi::c_void;
use std::ops::Range;
use std::slice;
use std::sync::{Arc, Mutex};

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};

use super::frame::StackFrame;
use super::sample::Sample;

/// The greatest number of calls that are looked for.
const MAX_CALLS: usize = 256;

/// The layout of the frames of all loaded objects: the program and its shared libraries. It is copied, since an
/// object may be unloaded at any time.
#[derive(Clone)]
struct Objects {
    /// The number of objects that the loader had loaded and unloaded until then.
    version: (u64, u64),
    unwinder: Arc<UnwinderX86_64<Vec<u8>>>,
}

/// Reads the symbols of the objects that are on every stack: this one and the C library.
pub(super) fn prepare() {
    let [ours, c] =
        [prepare as fn() as *mut c_void, libc::getpid as unsafe extern "C" fn() -> i32 as *mut c_void];
    for function in [ours, c] {
        backtrace::resolve(function, |_| ());
    }
}

/// Finds the calls in a sample, innermost first.
pub(super) fn frames(sample: &Sample) -> Vec<StackFrame> {
    let objects = Objects::current();
    let mut read = |address: u64| {
        let offset = address.checked_sub(sample.sp).filter(|offset| offset % 8 == 0).ok_or(())?;
        usize::try_from(offset / 8).ok().and_then(|at| sample.words.get(at)).copied().ok_or(())
    };
    let registers = UnwindRegsX86_64::new(sample.ip, sample.sp, sample.bp);
    let mut cache = CacheX86_64::<_>::new();
    let mut calls = objects.unwinder.iter_frames(sample.ip, registers, &mut cache, &mut read);
    let mut frames = Vec::new();
    // After an error the callers are unknown, or lie beyond the copy.
    while let (true, Ok(Some(call))) = (frames.len() < MAX_CALLS, calls.next()) {
        push_frames(call, &mut frames);
    }
    frames
}

/// Adds the function of an address, and the functions inlined into it.
fn push_frames(call: FrameAddress, frames: &mut Vec<StackFrame>) {
    let address = usize::try_from(call.address()).unwrap_or(0);
    // For a return address this is the call before it.
    let within = usize::try_from(call.address_for_lookup()).unwrap_or(0);
    let before = frames.len();
    backtrace::resolve(std::ptr::without_provenance_mut::<c_void>(within), |symbol| {
        frames.push(StackFrame {
            address,
            // The alternate form leaves out the hash at the end.
            function: symbol.name().map(|name| format!("{name:#}")),
            file: symbol.filename().map(|file| file.display().to_string()),
            line: symbol.lineno(),
        });
    });
    if frames.len() == before {
        frames.push(StackFrame { address, function: None, file: None, line: None });
    }
}

impl Objects {
    /// Returns the objects of this moment. They are copied again only if the loader has loaded or unloaded one.
    fn current() -> Self {
        static KNOWN: Mutex<Option<Objects>> = Mutex::new(None);
        let mut read = Reading { known: None, version: None, unwinder: UnwinderX86_64::new() };
        // In a forked child the lock may stay held: then nothing is known.
        let mut known = KNOWN.try_lock().ok();
        read.known = known.as_ref().and_then(|known| known.as_ref()).map(|known| known.version);
        // SAFETY: the callback has the right signature, its last argument is the pointer given here, which is to a
        // local that outlives the call, and it does not unwind.
        unsafe { libc::dl_iterate_phdr(Some(Reading::object), (&raw mut read).cast()) };
        if let Some(same) = known.as_ref().and_then(|known| known.as_ref()) {
            if read.version == read.known {
                return same.clone();
            }
        }
        let objects = Self { version: read.version.unwrap_or_default(), unwinder: Arc::new(read.unwinder) };
        if let Some(known) = known.as_mut() {
            **known = Some(objects.clone());
        }
        objects
    }
}

/// The result of reading the loader's list of objects.
struct Reading {
    known: Option<(u64, u64)>,
    version: Option<(u64, u64)>,
    unwinder: UnwinderX86_64<Vec<u8>>,
}

impl Reading {
    /// Adds one object. Called under the loader's lock. Returns 1 to stop, if nothing has changed.
    ///
    /// # Safety
    ///
    /// `info` is a valid description of a loaded object, and `reading` points to a `Reading` that nothing else uses.
    unsafe extern "C" fn object(info: *mut libc::dl_phdr_info, _size: usize, reading: *mut c_void) -> i32 {
        // SAFETY: the caller promises it.
        let (info, reading) = unsafe { (&*info, &mut *reading.cast::<Self>()) };
        let version = (info.dlpi_adds, info.dlpi_subs);
        reading.version = Some(version);
        if reading.known == Some(version) {
            return 1;
        }
        // SAFETY: the description gives the address and the number of the object's headers. The loader's lock, which
        // is held meanwhile, keeps the object loaded.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        // SAFETY: headers and base are of the same object, which stays loaded meanwhile.
        if let Some(module) = unsafe { module(info.dlpi_addr, headers) } {
            reading.unwinder.add_module(module);
        }
        0
    }
}

/// Copies the tables that describe an object's frames. `None` if it has none in the usual form.
///
/// # Safety
///
/// `headers` are those of an object that is loaded at `base` and stays loaded during the call.
unsafe fn module(base: u64, headers: &[libc::Elf64_Phdr]) -> Option<Module<Vec<u8>>> {
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let range = |header: &libc::Elf64_Phdr| header.p_vaddr..header.p_vaddr + header.p_filesz;
    let start = loaded().map(|header| header.p_vaddr).min()?;
    let end = loaded().map(|header| header.p_vaddr + header.p_memsz).max()?;
    let index = range(headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME)?);
    let copy = |range: Range<u64>| {
        let from = usize::try_from(base.wrapping_add(range.start)).ok()?;
        let len = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: the ranges that are passed below are parts of a loaded segment of the object, which is mapped and
        // readable.
        Some(unsafe { slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(from), len) }.to_vec())
    };
    let index_bytes = copy(index.clone())?;
    // What linkers write: version 1, and the start of the frames as an offset from here, in four bytes.
    let [1, 0x1b, _, _, offset @ ..] = index_bytes.as_slice() else { return None };
    let offset = i32::from_le_bytes(*offset.first_chunk()?);
    let frames = index.start.wrapping_add(4).wrapping_add_signed(i64::from(offset));
    let segment = loaded().map(range).find(|segment| segment.contains(&frames))?;
    let frames = frames..segment.end;
    let sections = ExplicitModuleSectionInfo {
        eh_frame: Some(copy(frames.clone())?),
        eh_frame_svma: Some(frames),
        eh_frame_hdr: Some(index_bytes),
        eh_frame_hdr_svma: Some(index),
        ..Default::default()
    };
    let range = base.wrapping_add(start)..base.wrapping_add(end);
    Some(Module::new(String::new(), range, base, sections))
}
