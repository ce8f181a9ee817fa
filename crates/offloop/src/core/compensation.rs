//! A job that waits for another job holds its worker thread without using it; its pool then lends a thread.

use std::cell::RefCell;
use std::sync::Arc;

use crate::base::sync::{Mutex, thread_local};

/// A pool whose worker threads may block on handles.
pub(crate) trait Crew: Send + Sync {
    /// One more worker is blocked: another thread may stand in for it.
    fn block(&self);
    /// One fewer is.
    fn unblock(&self);
}

/// Where a thread works.
struct Post {
    crew: Arc<dyn Crew>,
    /// The wait of the job that runs now; made when it first polls a handle in vain.
    wait: Option<Arc<Wait>>,
}

thread_local! {
    static POST: RefCell<Option<Post>> = const { RefCell::new(None) };
}

/// Says that this thread is a worker of `crew` from now on.
pub(crate) fn join(crew: Arc<dyn Crew>) {
    POST.with(|post| post.replace(Some(Post { crew, wait: None })));
}

/// Says that this thread's job has ended: the thread goes on, whoever has the handles that the job polled.
pub(crate) fn end_job() {
    let wait = POST.with(|post| post.borrow_mut().as_mut().and_then(|post| post.wait.take()));
    if let Some(wait) = wait {
        wait.close();
    }
}

/// Says that this thread is nobody's worker any more.
pub(crate) fn leave() {
    end_job();
    drop(POST.with(RefCell::take));
}

/// What one job waits for. However many handles those are, it holds one thread, so one may stand in.
struct Wait {
    crew: Arc<dyn Crew>,
    /// How many handles hold the stand-in; `None` once the job has ended.
    pending: Mutex<Option<usize>>,
}

impl Wait {
    fn add(&self) {
        let mut pending = self.pending.lock();
        let before = *pending;
        *pending = before.map(|pending| pending + 1);
        drop(pending);
        if before == Some(0) {
            self.crew.block();
        }
    }

    fn remove(&self) {
        let mut pending = self.pending.lock();
        *pending = pending.map(|pending| pending - 1);
        let after = *pending;
        drop(pending);
        if after == Some(0) {
            self.crew.unblock();
        }
    }

    fn close(&self) {
        let pending = self.pending.lock().take();
        if pending.is_some_and(|pending| pending > 0) {
            self.crew.unblock();
        }
    }
}

/// Holds a stand-in for the worker thread that began it, until dropped or until that thread's job ends.
pub(crate) struct Compensation(Arc<Wait>);

impl Compensation {
    /// `None` when this thread is no pool's worker.
    pub(crate) fn begin() -> Option<Self> {
        let wait = POST.try_with(|post| {
            let mut post = post.borrow_mut();
            let Post { crew, wait } = post.as_mut()?;
            let new = || Arc::new(Wait { crew: Arc::clone(crew), pending: Mutex::new(Some(0)) });
            Some(Arc::clone(wait.get_or_insert_with(new)))
        });
        let wait = wait.ok().flatten()?;
        wait.add();
        Some(Self(wait))
    }
}

impl Drop for Compensation {
    fn drop(&mut self) {
        self.0.remove();
    }
}
