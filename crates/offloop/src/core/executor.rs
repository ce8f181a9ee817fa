//! The trait that an executor implements, and the rules for which work it accepts.

use std::sync::Arc;

use super::cell::Cell;
use super::error::{ErrorKind, Rejected};
use super::handle::Handle;
use super::job::Job;
use super::observer::Unobserved;
use super::options::{Options, Prepared};
use super::work::Work;

/// Runs jobs: the one trait to implement for an executor of your own.
///
/// ```
/// use offloop::{Executor, Job, Rejected};
///
/// /// A new thread for each job.
/// struct Threads;
///
/// impl Executor for Threads {
///     fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
///         std::thread::spawn(move || job.run());
///         Ok(())
///     }
/// }
///
/// let handle = offloop::run_in_executor(&Threads, || 6 * 7);
/// assert_eq!(handle.wait()?, 42);
/// # Ok::<(), offloop::Error>(())
/// ```
///
/// # Contract
///
/// An executor that returns `Ok` has taken the job over. It runs the job, or drops it, which cancels the handle.
/// `execute` should return soon, since it is called on the event loop. A job that cannot be taken goes back in
/// [`Rejected`], with the reason.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run closures or plain functions",
    label = "this executor cannot run this work",
    note = "a process pool runs calls of tasks: mark the function `#[offloop::task]` and pass `f.with(args)`",
    note = "an executor of your own implements `offloop::Executor`"
)]
pub trait Executor {
    /// Takes `job` over, or hands it back with the reason.
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>>;
}

impl<E: Executor + ?Sized> Executor for &E {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        (**self).execute(job)
    }
}

impl<E: Executor + ?Sized> Executor for Box<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        (**self).execute(job)
    }
}

impl<E: Executor + ?Sized> Executor for Arc<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        (**self).execute(job)
    }
}

/// Marks an executor that runs work of type `W`.
///
/// Implemented for every [`Executor`] with every [`Work`], for a [`ProcessPool`](crate::ProcessPool) and a
/// [`Remote`](crate::remote::Remote) with calls of tasks, for a [`StatePool`](crate::StatePool) with closures over its
/// state; each of them also [`prepare`](crate::prepare)d. Not to be implemented elsewhere.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run `{W}`",
    label = "this executor cannot run this work",
    note = "a process pool runs calls of tasks: mark the function `#[offloop::task]` and pass `f.with(args)`"
)]
pub trait Accepts<W> {
    /// The type that the work computes.
    type Output: Send + 'static;

    /// Submits the work. A rejection becomes the handle's error.
    #[doc(hidden)]
    fn place(&self, work: W, options: Options) -> Handle<Self::Output>;

    /// Submits the work, or gives it back.
    #[doc(hidden)]
    fn try_place(&self, work: W, options: Options) -> Result<Handle<Self::Output>, Rejected<W>>;
}

impl<E: Executor + ?Sized, W: Work> Accepts<W> for E {
    type Output = W::Output;

    fn place(&self, work: W, options: Options) -> Handle<W::Output> {
        let (cell, refused) = launch(self, work, options);
        if let Some(kind) = refused {
            cell.finish(Err(kind), &Unobserved);
        }
        Handle::new(cell)
    }

    fn try_place(&self, work: W, mut options: Options) -> Result<Handle<W::Output>, Rejected<W>> {
        options.never_wait = true;
        let (cell, refused) = launch(self, work, options);
        match refused.map(|kind| (kind, cell.reclaim())) {
            Some((kind, Some(work))) => Err(Rejected::new(work, kind)),
            // It was refused, and yet it has run or ended. Its handle has the result.
            _ => Ok(Handle::new(cell)),
        }
    }
}

type Launched<W> = (Arc<Cell<W, <W as Work>::Output>>, Option<ErrorKind>);

fn launch<E: Executor + ?Sized, W: Work>(executor: &E, work: W, mut options: Options) -> Launched<W> {
    if options.name.is_empty() {
        options.name = work.label();
    }
    let cell = Cell::new(work, options);
    let refused = executor.execute(Job::new(cell.clone())).err().map(|rejected| {
        let (job, kind) = rejected.into_parts();
        // The caller decides what becomes of the work. A job that is dropped whole would cancel it.
        drop(job.into_runnable());
        kind
    });
    (cell, refused)
}

impl<E: Accepts<W> + ?Sized, W> Accepts<Prepared<W>> for E {
    type Output = E::Output;

    fn place(&self, work: Prepared<W>, _: Options) -> Handle<E::Output> {
        E::place(self, work.work, work.options)
    }

    fn try_place(&self, work: Prepared<W>, _: Options) -> Result<Handle<E::Output>, Rejected<Prepared<W>>> {
        let options = work.options.clone();
        E::try_place(self, work.work, work.options).map_err(|rejected| {
            let (work, kind) = rejected.into_parts();
            Rejected::new(Prepared { work, options }, kind)
        })
    }
}

/// An executor that runs each job at once, on the thread that submits it. For tests and for cheap work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl Executor for Inline {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        job.run();
        Ok(())
    }
}
