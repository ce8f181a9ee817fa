//! Work that can be submitted: closures, functions, calls of tasks.

use std::borrow::Cow;

use super::error::ErrorKind;

/// A piece of work that runs in this process: a closure or function without arguments that is
/// `Send + 'static`, or a [`Call`](crate::Call) of a task.
///
/// A closure that *returns a future* is work too, but the future's body does not run: the executor only builds the
/// future. `rustc` warns of the unused future. Await it on the loop, or call the blocking function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not work that an executor can run",
    label = "neither a closure without arguments nor a call of a task",
    note = "a function with arguments: `|| f(args)`, or mark it `#[offloop::task]` and pass `f.with(args)`",
    note = "its captures and its result must be `Send + 'static`"
)]
pub trait Work: sealed::Sealed + Send + 'static {
    /// The type that it computes.
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
