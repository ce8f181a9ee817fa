//! What can be submitted: closures, functions, calls of tasks.

use std::borrow::Cow;

use crate::core::error::ErrorKind;

/// A piece of work that runs in this process: a closure or function without arguments that is
/// `Send + 'static`, or a [`Call`](crate::Call) of a task.
///
/// A closure that *returns a future* is work too, but its body does not run: the executor would only build
/// the future. `rustc` warns of the unused future; await it on the loop, or call the blocking function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not work that an executor can run",
    label = "neither a closure without arguments nor a call of a task",
    note = "a function with arguments: `|| f(args)`, or mark it `#[offloop::task]` and pass `f.with(args)`",
    note = "whatever it captures and returns must be `Send + 'static`"
)]
pub trait Work: sealed::Sealed + Send + 'static {
    /// What it computes.
    type Output: Send + 'static;

    #[doc(hidden)]
    fn perform(self) -> Result<Self::Output, ErrorKind>;

    #[doc(hidden)]
    fn label(&self) -> Cow<'static, str>;
}

impl<F, T> Work for F
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = T;

    fn perform(self) -> Result<T, ErrorKind> {
        Ok(self())
    }

    fn label(&self) -> Cow<'static, str> {
        Cow::Borrowed(std::any::type_name::<F>())
    }
}

pub(crate) mod sealed {
    pub trait Sealed {}
    impl<F: FnOnce() -> T, T> Sealed for F {}
}
