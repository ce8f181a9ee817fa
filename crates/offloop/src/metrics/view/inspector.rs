//! What a binding adds to the live view: the program's name, and names and stacks of jobs that Rust does not see.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The language and the service that a binding has named.
static PROGRAM: OnceLock<(String, String)> = OnceLock::new();

/// The binding's eyes.
static INSPECTOR: OnceLock<Box<dyn Inspector>> = OnceLock::new();

/// Somebody has looked, or can look. Never reset.
static IS_OBSERVED: AtomicBool = AtomicBool::new(false);

/// Records that somebody looks, or can look.
pub(crate) fn note_observed() {
    IS_OBSERVED.store(true, Ordering::Relaxed);
}

/// Returns whether somebody has taken a snapshot, or can by a server. For work that is only worth it then, such as names
/// of jobs that are costly to make. One atomic load.
pub fn is_observed() -> bool {
    IS_OBSERVED.load(Ordering::Relaxed)
}

/// Names the language that the program uses these pools from, and the service that the program is if nobody says
/// otherwise. For the live view. The first call counts, and also in forked children.
pub fn set_program(language: impl Into<String>, service: impl Into<String>) {
    let _ = PROGRAM.set((language.into(), service.into()));
}

/// Sets what the live view asks about jobs of a binding. The first call counts, and also in forked children. Returns
/// whether it was the first.
pub fn set_inspector(inspector: impl Inspector + 'static) -> bool {
    INSPECTOR.set(Box::new(inspector)).is_ok()
}

/// Tells the live view about jobs that Rust does not see: what they are called and where they are.
///
/// It is called on the threads of the view's servers. It must not wait for an interpreter that a job may hold, nor for a
/// lock that another thread may have held when the process forked.
pub trait Inspector: Send + Sync {
    /// Returns the name of the job that runs in this place, if the name that it was submitted with says nothing. Called in
    /// each snapshot for each job in a thread. Must be quick.
    fn job_name(&self, _place: &JobPlace<'_>) -> Option<String> {
        None
    }

    /// Returns where the job that runs in this place is. May take some hundred milliseconds. `None` lets the engine say what
    /// it knows.
    fn stack(&self, _place: &JobPlace<'_>) -> Option<JobStack> {
        None
    }
}

/// A job that runs, and the worker that runs it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct JobPlace<'a> {
    /// The job's number.
    pub job: u64,
    /// The name that it was submitted with, or that of its function.
    pub name: &'a str,
    /// The process id of its worker process. `None` if a thread runs it.
    pub pid: Option<u32>,
    /// The system's id of the thread of this process that runs it. `None` if a process runs it.
    pub thread: Option<u32>,
}

/// The calls that a job is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobStack {
    /// The calls, the innermost first.
    pub frames: Vec<JobFrame>,
    /// A remark, such as the reason why there are no calls. A sentence.
    pub note: Option<String>,
}

/// One call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobFrame {
    /// The function.
    pub function: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in that file.
    pub line: Option<u32>,
}

impl JobStack {
    /// Makes a stack of these calls, the innermost first.
    pub fn new(frames: Vec<JobFrame>) -> Self {
        Self { frames, note: None }
    }

    /// Adds a sentence.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

impl JobFrame {
    /// Makes a call of this function.
    pub fn new(function: impl Into<String>, file: Option<String>, line: Option<u32>) -> Self {
        Self { function: function.into(), file, line }
    }
}

impl fmt::Debug for dyn Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspector")
    }
}

/// Returns the language and the service that a binding has named.
pub(crate) fn program() -> Option<(&'static str, &'static str)> {
    PROGRAM.get().map(|(language, service)| (language.as_str(), service.as_str()))
}

/// Returns what the binding has set.
pub(crate) fn inspector() -> Option<&'static dyn Inspector> {
    INSPECTOR.get().map(|inspector| &**inspector)
}
