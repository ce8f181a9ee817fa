//! Where work goes: the trait that an executor of your own implements, and what makes work fit it.

use std::sync::Arc;

use crate::core::cell::Cell;
use crate::core::error::{ErrorKind, Rejected};
use crate::core::handle::Handle;
use crate::core::job::{Job, Options, Prepared};
use crate::core::work::Work;
use crate::metrics::stats::NoBooks;

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
/// An executor that returns `Ok` has taken the job over: it runs it, or drops it, which cancels the handle.
/// `execute` should return soon, as it is called on the event loop. A job that can't be taken goes back in
/// [`Rejected`], with the reason.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run closures or plain functions",
    label = "this executor cannot run this work",
    note = "a process pool runs calls of tasks: mark the function `#[offloop::task]` and pass `f.with(args)`",
    note = "an executor of your own implements `offloop::Executor`"
)]
pub trait Executor {
    /// Takes `job` over, or hands it back.
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

/// Says that work of type `W` may be given to this executor.
///
/// Implemented for every [`Executor`] with every [`Work`], for a [`ProcessPool`](crate::ProcessPool) with
/// calls of tasks, for a [`StatePool`](crate::StatePool) with closures over its state; each of them also
/// [`prepare`](crate::prepare)d. Not to be implemented elsewhere.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not run `{W}`",
    label = "this executor cannot run this work",
    note = "a process pool runs calls of tasks: mark the function `#[offloop::task]` and pass `f.with(args)`"
)]
pub trait Accepts<W> {
    /// What the work computes.
    type Output: Send + 'static;

    /// Submits; a rejection becomes the handle's error.
    #[doc(hidden)]
    fn place(&self, work: W, options: Options) -> Handle<Self::Output>;

    /// Submits, or gives the work back.
    #[doc(hidden)]
    fn try_place(&self, work: W, options: Options) -> Result<Handle<Self::Output>, Rejected<W>>;
}

impl<E: Executor + ?Sized, W: Work> Accepts<W> for E {
    type Output = W::Output;

    fn place(&self, work: W, options: Options) -> Handle<W::Output> {
        let (cell, refused) = launch(self, work, options);
        if let Some(kind) = refused {
            cell.finish(Err(kind), &NoBooks);
        }
        Handle::new(cell)
    }

    fn try_place(&self, work: W, mut options: Options) -> Result<Handle<W::Output>, Rejected<W>> {
        options.never_wait = true;
        let (cell, refused) = launch(self, work, options);
        match refused.map(|kind| (kind, cell.reclaim())) {
            Some((kind, Some(work))) => Err(Rejected::new(work, kind)),
            // Refused, and yet it has run or ended: its handle knows how.
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
        // The cell decides what becomes of the work; a job that is dropped would cancel it.
        drop(job.into_cell());
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

/// Runs each job at once, on the thread that submits it. For tests, and for work that turned out to be cheap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl Executor for Inline {
    fn execute(&self, job: Job) -> Result<(), Rejected<Job>> {
        job.run();
        Ok(())
    }
}
