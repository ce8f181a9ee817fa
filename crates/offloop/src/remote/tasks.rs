//! The tasks of this program, as other programs may call them.

use crate::core::error::ErrorKind;
use crate::core::signature::Signature;
use crate::wire::registry;
use crate::wire::task::Task;

/// A task of this program that can be called by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskEntry {
    /// Its name: the one that the program has given it, else the path of the function.
    pub name: &'static str,
    /// Its version; 1 if none is given.
    pub version: u32,
    /// The task's signature, which a caller's program must have, too.
    pub signature: Signature,
}

/// Returns the tasks of this program, in no particular order. Those that share their name with another one are left out,
/// since they cannot be called by it.
pub fn tasks() -> Vec<TaskEntry> {
    let all = registry::registry().iter().filter(|it| matches!(registry::find(it.name), Ok(Some(_))));
    all.map(|it| TaskEntry { name: it.name, version: it.version, signature: it.signature() }).collect()
}

/// Returns the task that a call from elsewhere asks for.
pub(super) fn find(name: &str, wanted: Signature) -> Result<&'static Task, ErrorKind> {
    let found = registry::find(name).map_err(|conflict| ErrorKind::Rejected(conflict.into()))?;
    let offered = match found {
        Some(task) if task.signature() == wanted || wanted == Signature::ANY => return Ok(task),
        Some(task) => vec![task.signature()],
        None => Vec::new(),
    };
    Err(ErrorKind::NoSuchTask { task: name.to_owned(), wanted, offered, workers: Vec::new() })
}
