//! Tasks: functions that another process can call by their names, and their calls.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
#[cfg(target_os = "linux")]
use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::blob::Blob;
use super::msgpack::{Error, whole_block};
use super::payload::{ByteBuf, Bytes, Incoming, Payload, Received, answer_whole};
use super::pool_memory::Memory;
use crate::base::fork::PerProcess;
use crate::base::panic::Panic;
use crate::core::error::ErrorKind;
use crate::core::signature::Signature;
use crate::core::work::{Work, sealed};

/// The call of a task with its arguments, made by the task's `with`.
///
/// A process pool encodes it at once, on the thread that submits it. Borrowed arguments are not read after that. On
/// threads it is an ordinary call, for which its arguments must be `'static`.
#[must_use = "a call does nothing until an executor is given it"]
pub struct Call<'a, R> {
    task: &'static Task,
    bound: Box<dyn BoundCall<R> + 'a>,
}

/// A task's function with its arguments, whatever their types.
trait BoundCall<R>: Send {
    fn encode(&self, context: Option<&CallContext<'_>>, memory: &dyn Memory) -> Result<Payload, Error>;
    fn encode_whole(&self) -> Result<Vec<u8>, Error>;
    fn call(self: Box<Self>) -> R;
}

struct Arguments<A, R> {
    arguments: A,
    body: fn(A) -> R,
}

impl<A: Serialize + Send, R> BoundCall<R> for Arguments<A, R> {
    fn encode(&self, context: Option<&CallContext<'_>>, memory: &dyn Memory) -> Result<Payload, Error> {
        Payload::encode_call(context, &self.arguments, memory)
    }

    fn encode_whole(&self) -> Result<Vec<u8>, Error> {
        Payload::encode_whole_call(&self.arguments)
    }

    fn call(self: Box<Self>) -> R {
        (self.body)(self.arguments)
    }
}

/// Makes the call of a task: arguments, and the function that takes them.
pub(crate) fn call<'a, A, R>(task: &'static Task, arguments: A, body: fn(A) -> R) -> Call<'a, R>
where
    A: Serialize + Send + 'a,
    R: 'a,
{
    Call { task, bound: Box::new(Arguments { arguments, body }) }
}

impl<R> Call<'_, R> {
    /// Returns the name of the task: the one that the program has given it, else its path, `crate::module::function`.
    pub fn task_name(&self) -> &'static str {
        self.task.name
    }

    pub(crate) fn task(&self) -> &'static Task {
        self.task
    }

    /// Encodes the call for the workers of a pool, which read `memory`.
    pub(crate) fn encode(
        &self,
        context: Option<&CallContext<'_>>,
        memory: &dyn Memory,
    ) -> Result<Encoded, ErrorKind> {
        self.task.check_registered()?;
        match self.bound.encode(context, memory) {
            Ok(arguments) => {
                let has_context = context.is_some();
                Ok(Encoded { task: self.task, arguments, has_context, is_whole: false, kind: 0 })
            }
            Err(error) => Err(self.task.wrong_arguments(&error)),
        }
    }

    /// Encodes the arguments into bytes that are complete by themselves, for a call by the task's name.
    pub(crate) fn encode_whole(&self) -> Result<Vec<u8>, ErrorKind> {
        self.task.check_registered()?;
        find(self.task.name).map_err(|conflict| {
            ErrorKind::Encode(format!("a call of `{}` by its name: {conflict}", self.task.name))
        })?;
        self.bound.encode_whole().map_err(|error| self.task.wrong_arguments(&error))
    }
}

impl<R> fmt::Debug for Call<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.task.name).finish()
    }
}

impl<R> sealed::Sealed for Call<'static, R> {}

impl<R: Send + 'static> Work for Call<'static, R> {
    type Output = R;

    fn perform(self) -> Result<R, ErrorKind> {
        Ok(self.bound.call())
    }

    fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.task.name)
    }
}

/// Details of a job that its worker needs beside the arguments. If there are any, they precede the arguments in the
/// payload.
#[derive(Debug)]
pub(crate) struct CallContext<'a> {
    /// The job's name, if it is not the task's.
    pub(crate) name: Option<&'a str>,
    /// The name of the submitter's span.
    pub(crate) parent: Option<&'a str>,
    /// The bytes that the job [carries](crate::Prepared::carry).
    pub(crate) carried: Option<Bytes<'a>>,
    /// The id of the [request](crate::Prepared::request) that the job works for.
    pub(crate) request: Option<&'a str>,
}

/// Both ends are of one build, so the fields need no names.
impl Serialize for CallContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.name, self.parent, self.carried, self.request).serialize(serializer)
    }
}

impl<'a> CallContext<'a> {
    /// Splits the context off the front of a payload.
    pub(crate) fn take(incoming: Incoming<'a>) -> Result<(Self, Incoming<'a>), Error> {
        let ((name, parent, carried, request), arguments) = incoming.split()?;
        Ok((Self { name, parent, carried, request }, arguments))
    }
}

/// A call that is encoded for a worker process.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) task: &'static Task,
    pub(crate) arguments: Payload,
    /// Whether a [`CallContext`] precedes the arguments.
    pub(crate) has_context: bool,
    /// Results and items are to be complete by themselves, without parts.
    pub(crate) is_whole: bool,
    /// A hash of the job's task and name. Jobs of the same kind are expected to take about as long.
    pub(crate) kind: u8,
}

/// The number of kinds of jobs.
pub(crate) const KINDS: usize = 256;

impl Encoded {
    /// Makes the call of arguments that are complete by themselves and may have come from another machine. Its results and
    /// items will be complete, too. Fails if the memory is used up.
    pub(crate) fn of_whole(
        task: &'static Task,
        arguments: &[u8],
        context: Option<&CallContext<'_>>,
        memory: &dyn Memory,
    ) -> Result<Self, ErrorKind> {
        let arguments =
            Payload::copy_call(context, arguments, memory).map_err(|error| task.wrong_arguments(&error))?;
        Ok(Self { task, arguments, has_context: context.is_some(), is_whole: true, kind: 0 })
    }

    /// Calls the task on this thread.
    pub(crate) fn run(&self) -> EncodedResult {
        let mut incoming = Incoming::from(&self.arguments);
        if self.has_context {
            incoming = CallContext::take(incoming).map_err(|error| Fault::Arguments(error.to_string()))?.1;
        }
        let _whole = Whole::begin(self.is_whole);
        (self.task.run)(incoming)
    }

    /// Sets the kind of the job, by its task and its name.
    pub(crate) fn named(mut self, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.task.index(), name).hash(&mut hasher);
        self.kind = hasher.finish().to_le_bytes()[0];
        self
    }
}

/// The scope in which this thread's results and items are complete by themselves, or are not.
pub(crate) struct Whole {
    before: bool,
}

impl Whole {
    pub(crate) fn begin(is_whole: bool) -> Self {
        Self { before: answer_whole(is_whole) }
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        answer_whole(self.before);
    }
}

/// Not public API: a function marked `#[offloop::task]`, as an entry of the registry.
pub struct Task {
    /// The path of the function, or the name that the program has given it.
    pub(crate) name: &'static str,
    /// The program has given the task its name, by which other programs call it. Then no other task may have it.
    is_name_fixed: bool,
    pub(crate) version: u32,
    /// The types of the function, as a text that is the same in all builds.
    signature: &'static str,
    /// The file, line and column of the function.
    location: (&'static str, u32, u32),
    /// Distinguishes tasks that are the same otherwise: of a crate that is linked twice, or of one macro.
    marker: fn() -> TypeId,
    /// Decodes arguments, calls the function and encodes its result.
    pub(crate) run: fn(Incoming<'_>) -> EncodedResult,
    /// The position in the sorted registry, by which the task is called over a link. Written by `registry`.
    index: AtomicU32,
    /// The time that its results take to be decoded.
    pub(crate) results: DecodePace,
    /// How long its items take to be decoded.
    pub(crate) items: DecodePace,
}

/// The encoded result of a task.
pub(crate) type EncodedResult = Result<Payload, Fault>;

/// The reason why a task has no result that could be sent.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Its arguments could not be decoded, so it was not run.
    Arguments(String),
    /// Its result could not be encoded.
    Result(String),
    /// It panicked.
    Panicked(Panic),
}

impl Fault {
    pub(crate) fn into_kind(self, task: &str) -> ErrorKind {
        match self {
            Self::Arguments(reason) => ErrorKind::Decode(format!("the arguments of `{task}`: {reason}")),
            Self::Result(reason) => ErrorKind::Encode(format!("the result of `{task}`: {reason}")),
            Self::Panicked(panic) => ErrorKind::Panicked(panic),
        }
    }
}

impl Task {
    pub(super) const fn new(
        name: &'static str,
        signature: &'static str,
        location: (&'static str, u32, u32),
        marker: fn() -> TypeId,
        run: fn(Incoming<'_>) -> EncodedResult,
    ) -> Self {
        let (results, items) = (DecodePace::new(), DecodePace::new());
        let index = AtomicU32::new(u32::MAX);
        let (is_name_fixed, version) = (false, 1);
        Self { name, is_name_fixed, version, signature, location, marker, run, index, results, items }
    }

    /// Not public API: says that the program has given the task its name.
    pub const fn with_fixed_name(mut self) -> Self {
        self.is_name_fixed = true;
        self
    }

    /// Not public API: sets the version that the program has given the task. Default: 1.
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Returns what two programs must have in common to call this task by its name.
    pub(crate) fn signature(&self) -> Signature {
        Signature::of(self.name, self.version, self.signature)
    }

    fn wrong_arguments(&self, error: &Error) -> ErrorKind {
        ErrorKind::Encode(format!("the arguments of `{}`: {error}", self.name))
    }

    /// Returns the place of the function in the source, for errors.
    fn place(&self) -> String {
        let (file, line, column) = self.location;
        format!("{file}:{line}:{column}")
    }

    pub(crate) fn index(&self) -> u32 {
        registry();
        self.index.load(Ordering::Relaxed)
    }

    /// Fails if workers cannot find the task. The linker collects the tasks of each shared object by itself, and the
    /// registry is that of the object which contains this crate.
    fn check_registered(&self) -> Result<(), ErrorKind> {
        if self.index() != u32::MAX {
            return Ok(());
        }
        Err(ErrorKind::Encode(format!(
            "a call of `{}`: the task is not in the registry, because it and the crate `offloop` are in different shared \
             objects; link the crates with tasks and `offloop` statically: as `rlib`, without `dylib` or `prefer-dynamic`",
            self.name
        )))
    }

    fn identity(&self) -> impl Ord + Hash + use<> {
        (self.name, self.version, self.location, self.signature, (self.marker)())
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.name).finish()
    }
}

/// Not public API: every task that is linked into this program.
#[linkme::distributed_slice]
pub static TASKS: [Task];

/// Returns all tasks, in an order that is the same in all processes of one build.
pub(crate) fn registry() -> &'static [&'static Task] {
    static REGISTRY: PerProcess<Vec<&'static Task>> = PerProcess::new();
    REGISTRY.get(|| {
        let mut tasks: Vec<&'static Task> = TASKS.iter().collect();
        tasks.sort_by_key(|task| task.identity());
        for (index, task) in (0..).zip(&tasks) {
            task.index.store(index, Ordering::Relaxed);
        }
        tasks
    })
}

/// The tasks of one name.
#[derive(Debug, Clone, Copy)]
enum Named {
    One(&'static Task),
    /// Two of them, or the first two of more.
    Several([&'static Task; 2]),
}

/// Returns the tasks of this program by their names.
fn names() -> &'static HashMap<&'static str, Named> {
    static NAMES: PerProcess<HashMap<&'static str, Named>> = PerProcess::new();
    NAMES.get(|| {
        let mut names: HashMap<&'static str, Named> = HashMap::new();
        for task in registry() {
            let entry = names.entry(task.name);
            entry
                .and_modify(|named| {
                    if let Named::One(first) = named {
                        *named = Named::Several([*first, *task]);
                    }
                })
                .or_insert(Named::One(task));
        }
        names
    })
}

/// Describes two tasks that have the same name.
fn name_conflict([first, second]: [&'static Task; 2]) -> String {
    format!(
        "two tasks of this program have the name `{}`, the functions at {} and {}; give each a name of its own: \
         `#[offloop::task(name = \"…\")]`",
        first.name,
        first.place(),
        second.place()
    )
}

/// Fails if a name that the program has given a task is also that of another one. Tasks without such a name may have the
/// same path, as those of a crate that is linked in two versions: within one program they are not called by it.
pub(crate) fn check_names() -> Result<(), String> {
    let conflict = names().values().find_map(|named| match named {
        Named::Several(tasks) if registry().iter().any(|it| it.name == tasks[0].name && it.is_name_fixed) => {
            Some(*tasks)
        }
        _ => None,
    });
    conflict.map_or(Ok(()), |tasks| Err(name_conflict(tasks)))
}

/// Returns the only task with this name. Returns `None` if there is none, and an error if there are several.
pub(crate) fn find(name: &str) -> Result<Option<&'static Task>, String> {
    match names().get(name) {
        None => Ok(None),
        Some(Named::One(task)) => Ok(Some(task)),
        Some(Named::Several(tasks)) => Err(name_conflict(*tasks)),
    }
}

/// Returns a hash of what two processes must have in common to understand each other: this crate's version, the tasks
/// with their signatures, and the file of the program.
pub(crate) fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for task in registry() {
        task.identity().hash(&mut hasher);
    }
    #[cfg(target_os = "linux")]
    if let Ok(file) = std::fs::metadata(file_of_this_code()) {
        use std::os::unix::fs::MetadataExt;
        (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    hasher.finish()
}

/// Returns the path of the file that this code was loaded from: the running program, or the library that has this crate in
/// it. Other programs may load the same library.
#[cfg(target_os = "linux")]
fn file_of_this_code() -> PathBuf {
    let path = library_of(fingerprint as fn() -> u64 as *const libc::c_void).filter(|path| is_library(path));
    path.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Returns whether a path of a loaded object is that of a library. The path of the program may be as the user has typed it.
#[cfg(target_os = "linux")]
fn is_library(path: &Path) -> bool {
    path.is_absolute()
        && path.file_name().is_some_and(|name| name.as_bytes().windows(3).any(|part| part == b".so"))
}

/// Returns the path of the object that has an address, as the loader reports it.
#[cfg(target_os = "linux")]
fn library_of(address: *const libc::c_void) -> Option<PathBuf> {
    // SAFETY: an all-zero `Dl_info` is a valid value of this plain C struct.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the function takes any address, and the pointer is to a live local variable.
    if unsafe { libc::dladdr(address, &raw mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's string ends with a NUL. It lives as long as the object, to which this code belongs.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Decodes the arguments, calls the function and encodes its result. Borrowed arguments borrow from
/// `input`.
pub(crate) fn run<'a, A, R>(input: Incoming<'a>, body: impl FnOnce(A) -> R) -> EncodedResult
where
    A: Deserialize<'a>,
    R: Serialize + 'static,
{
    let arguments = input.decode_arguments().map_err(|error| Fault::Arguments(error.to_string()))?;
    let result = body(arguments);
    let encoded = match (&result as &dyn Any).downcast_ref::<Vec<u8>>() {
        // One block instead of single bytes.
        Some(bytes) => Payload::encode(&Bytes(bytes)),
        None => Payload::encode(&result),
    };
    encoded.map_err(|error| Fault::Result(error.to_string()))
}

/// Decodes a value that a worker has sent.
pub(crate) fn decode<R: DeserializeOwned + 'static>(received: Received<'_>) -> Result<R, Error> {
    // Large bytes and texts are copied once, straight to where they stay. A text is validated there.
    if is::<R, Vec<u8>>() {
        if let Some(block) = whole_block(received.body, false) {
            return Ok(same(block.to_vec()));
        }
    } else if is::<R, String>() {
        if let Some(block) = whole_block(received.body, true) {
            return String::from_utf8(block.to_vec()).map(same).map_err(|_| Error::Utf8);
        }
    }
    decode_in_place(Incoming { body: &received.settled(), parts: received.parts })
}

/// Decodes a value from memory that does not change.
pub(crate) fn decode_in_place<R: DeserializeOwned + 'static>(incoming: Incoming<'_>) -> Result<R, Error> {
    if is::<R, Vec<u8>>() {
        return incoming.decode::<ByteBuf>().map(|bytes| same(bytes.0));
    }
    incoming.decode()
}

fn is<A: 'static, B: 'static>() -> bool {
    TypeId::of::<A>() == TypeId::of::<B>()
}

/// Returns a value whose type `A` is known to be `B`.
fn same<A: 'static, B: 'static>(value: A) -> B {
    let mut value = Some(value);
    let value = (&mut value as &mut dyn Any).downcast_mut::<Option<B>>().and_then(Option::take);
    value.expect("the types were compared")
}

/// Returns whether values of this type are decoded by the standard library or by this crate alone, and quickly.
pub(crate) fn is_plain<R: 'static>() -> bool {
    macro_rules! is_one_of {
        ($($plain:ty),*) => { [$(TypeId::of::<$plain>()),*].contains(&TypeId::of::<R>()) };
    }
    is_one_of!(
        (), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64,
        String, Vec<u8>, Blob, Result<(), String>
    )
}

/// Values above this size are decoded on other threads, so that the thread that took them can go on. In bytes.
const LARGE: usize = 64 * 1024;

/// Returns whether a value of this encoded length may be decoded by the thread that has taken it: one that is not large,
/// and of a type that is known to be quick (`is_plain`) or has been. See [`DecodePace`].
pub(crate) fn is_quick(length: usize, is_plain: bool, pace: &DecodePace) -> bool {
    length <= LARGE && (is_plain || pace.is_quick())
}

/// Learns how long values of one kind take to be decoded.
///
/// `Deserialize` is the user's code, and may do anything. A thread that has taken an answer, such as the thread of an
/// event loop or the pool's supervisor, decodes the value only if values of its kind have been quick. Otherwise another
/// thread does. The first value of a kind is always for another thread. A kind that turns out to be slow now and then is
/// trusted less each time, up to once in [`MAX_DISTRUST`](Self::MAX_DISTRUST) values.
#[derive(Debug)]
pub(crate) struct DecodePace {
    /// The number of values that are to be quick, one after the other, until the kind counts as quick.
    missing: AtomicU32,
    /// The number that `missing` was set to by the last slow value.
    distrust: AtomicU32,
}

impl DecodePace {
    /// A value that takes no longer is quick. To wake another thread takes about as long.
    const QUICK: Duration = Duration::from_micros(20);

    const MAX_DISTRUST: u32 = 1024;

    const fn new() -> Self {
        Self { missing: AtomicU32::new(1), distrust: AtomicU32::new(1) }
    }

    /// Returns whether values of this kind have been decoded quickly.
    pub(crate) fn is_quick(&self) -> bool {
        self.missing.load(Ordering::Relaxed) == 0
    }

    /// Calls `decode` and learns how long it takes.
    pub(crate) fn measure<T>(&self, decode: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = decode();
        self.learn(began.elapsed());
        value
    }

    /// Records the time that one value has taken. Threads that do this at a time may lose one another's records, which
    /// does no harm.
    fn learn(&self, took: Duration) {
        let missing = self.missing.load(Ordering::Relaxed);
        if took > Self::QUICK {
            let distrust = (2 * self.distrust.load(Ordering::Relaxed)).min(Self::MAX_DISTRUST);
            self.distrust.store(distrust, Ordering::Relaxed);
            self.missing.store(distrust, Ordering::Relaxed);
        } else if missing > 0 {
            self.missing.store(missing - 1, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory)), not(miri)))]
mod tests {
    use super::*;
    use crate::wire::pool_memory::PoolMemory;
    use crate::wire::task_fn::{self, TaskFn};

    /// A task that is not in the slice, as are those of another shared object.
    struct Stray;

    impl TaskFn for Stray {
        type Arguments<'call> = (u8,);
        type Output = u8;

        fn task() -> &'static Task {
            static TASK: Task = Task::of::<Stray>("plugin::stray", "fn(u8) -> u8", (file!(), 1, 1));
            &TASK
        }

        fn apply((n,): (u8,)) -> u8 {
            n + 1
        }
    }

    #[test]
    fn a_task_of_another_shared_object_is_refused_at_submission_and_runs_on_threads() {
        let error = task_fn::call::<Stray>((1,)).encode(None, &PoolMemory::new()).unwrap_err().to_string();
        assert!(error.contains("`plugin::stray`") && error.contains("different shared objects"), "{error}");
        assert_eq!(task_fn::call::<Stray>((1,)).perform().unwrap(), 2);
    }
}
