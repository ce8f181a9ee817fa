//! Executors of your own that run calls elsewhere: in another program, on another machine.
//!
//! A [`Carrier`] takes calls to the place where they run, over whatever network or queue there is. [`Remote`] makes an
//! executor of it, with the same handles, instructions and errors as a [`ProcessPool`](crate::ProcessPool). At the other
//! end [`perform`] runs a call in a process pool.
//!
//! ```text
//! Remote::run(call) ─▶ Carrier::carry(Outbound, Ender) ─ ─ bytes ─ ─▶ Outbound::received ─▶ perform(&pool, …)
//!        │                                │ ▲                                                   │
//!        ▼                                │ └ ─ ─ ─ ─ ─ items, output, result or error ─ ─ ─ ─ ─┘
//!     Handle ◀──── accept, start, item, end
//! ```
//!
//! Here the other end is a pool of this very program, and a thread waits for each job:
//!
//! ```
//! # #[cfg(target_os = "linux")] mod example {
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//!
//! use offloop::remote::{Canceller, Carrier, Ender, Outbound, Remote, perform};
//! use offloop::{JobId, ProcessPool, Rejected};
//!
//! struct Nearby {
//!     pool: ProcessPool,
//!     running: Arc<Mutex<HashMap<JobId, Canceller>>>,
//! }
//!
//! impl Carrier for Nearby {
//!     fn carry(&self, outbound: Outbound, ender: Ender) -> Result<(), Rejected<Ender>> {
//!         let job = outbound.id();
//!         // Another program would make the call again with `Outbound::received`, of the parts that were sent.
//!         let performance = match perform(&self.pool, outbound) {
//!             Ok(performance) => performance,
//!             Err(kind) => return Err(Rejected::new(ender, kind)),
//!         };
//!         self.running.lock().unwrap().insert(job, performance.canceller());
//!         let running = Arc::clone(&self.running);
//!         std::thread::spawn(move || {
//!             ender.start();
//!             let performed = performance.wait();
//!             running.lock().unwrap().remove(&job);
//!             ender.end(performed.result);
//!         });
//!         Ok(())
//!     }
//!
//!     fn cancel(&self, job: JobId) {
//!         if let Some(running) = self.running.lock().unwrap().remove(&job) {
//!             running.cancel();
//!         }
//!     }
//! }
//!
//! #[offloop::task(name = "example:square", version = 1)]
//! fn square(number: u64) -> u64 {
//!     number * number
//! }
//!
//! pub fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     offloop::init();
//!     let pool = ProcessPool::builder().max_workers(2).build()?;
//!     let remote = Remote::new("nearby", Nearby { pool, running: Arc::default() });
//!     assert_eq!(remote.run(square.with(12)).wait()?, 144);
//!     let handle = offloop::run_in_executor(&remote, offloop::prepare(square.with(3)).priority(5));
//!     assert_eq!(handle.wait()?, 9);
//!     Ok(())
//! }
//! # }
//! # fn main() {
//! #     #[cfg(target_os = "linux")]
//! #     example::main().unwrap();
//! # }
//! ```
//!
//! # Who ends a job
//!
//! A job ends once, under its own lock, whoever comes first: its [`Ender`], its handle, a time limit, a shutdown. If it is
//! not the ender, the carrier is told by [`cancel`](Carrier::cancel), once, and what the ender says later has no effect. An
//! ender that gets lost ends its job with [`ErrorKind::Unreachable`](crate::ErrorKind::Unreachable). So a handle waits for
//! ever only if a carrier keeps an ender and does nothing.
//!
//! A carrier that learns of the same end twice, or of two ends, needs no care: the first counts. Whether the *other place*
//! runs a call more than once is the carrier's matter.
//!
//! # What travels
//!
//! An [`Outbound`] has plain parts: texts, numbers, bytes. How they travel is the carrier's matter; none is believed when
//! it arrives. The arguments, the items and the result are bytes of MessagePack that only the two programs with the task
//! decode: the worker process at the other end, and the caller. Neither a carrier nor [`perform`] looks into them. Blobs
//! are copied into them. Results that are large, or whose kind is not known to be quick, are decoded on a thread of their
//! own, so that a slow `Deserialize` holds up neither carrier nor event loop. Errors travel by [`pack_error`].
//!
//! A call runs only where the task has the same [`Signature`](crate::Signature): name, version and types. Give a task that
//! is called from elsewhere a [name](macro@crate::task#a-name-for-other-programs) that does not change.
//!
//! # Forks
//!
//! In a forked child the executor accepts nothing, as a pool does not: the carrier and its jobs are its parent's.

mod carrier;
mod ender;
mod errors;
mod executor;
#[cfg(all(any(test, fuzzing), target_os = "linux"))]
pub(crate) mod fuzz;
mod items;
mod named;
mod outbound;
#[cfg(target_os = "linux")]
mod performance;
mod tasks;

pub use carrier::Carrier;
pub use ender::{Answer, Ender};
pub use errors::{pack_error, unpack_error};
pub use executor::Remote;
pub use named::NamedCall;
pub use outbound::{Instructions, Malformed, Outbound};
#[cfg(target_os = "linux")]
pub use performance::{Canceller, Performance, Performed, perform};
pub use tasks::{TaskEntry, tasks};

pub use crate::wire::decode::Encoded;
