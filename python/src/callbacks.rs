//! The functions that users have attached to a future.

use pyo3::prelude::*;

use crate::once::intern;

/// The kind of functions that the end of a `concurrent.futures.Future` calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callbacks {
    None,
    /// Those of `asyncio`, which only schedule a call on an event loop.
    Asyncio,
    /// Others as well, which may take any time.
    Others,
}

/// Returns the kind of functions that are attached to a future at this moment.
pub(crate) fn callbacks_of(future: &Bound<'_, PyAny>) -> PyResult<Callbacks> {
    let py = future.py();
    let callbacks = future.getattr(intern!(py, "_done_callbacks"))?;
    let mut found = Callbacks::None;
    if callbacks.len()? == 0 {
        return Ok(found);
    }
    for callback in callbacks.try_iter()? {
        found = match callback?.getattr_opt(intern!(py, "__module__"))? {
            Some(module) if module.eq(intern!(py, "asyncio.futures"))? => Callbacks::Asyncio,
            _ => return Ok(Callbacks::Others),
        };
    }
    Ok(found)
}
