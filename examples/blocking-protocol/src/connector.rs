//! The wrapper: the code that an async program needs to use a blocking connector. Other connectors are wrapped the same
//! way.

use std::net::{Shutdown, SocketAddr};

use offloop::{BuildError, Handle, StatePool, ThreadPool, job, prepare, run_in_executor};

use crate::client::{CallError, Client};
use crate::wire::Parameters;

/// Connections to a server, each on a thread of its own.
#[derive(Debug, Clone)]
pub struct Connector {
    pool: StatePool<Client>,
}

impl Connector {
    /// Prepares at most `connections` connections. Each is opened when the first call needs it.
    pub fn new(server: SocketAddr, connections: usize) -> Result<Self, BuildError> {
        let threads = ThreadPool::builder().name("connector").max_workers(connections);
        Ok(Self { pool: threads.build_with_worker_state(move || Client::connect(server))? })
    }

    /// Calls a function of the server.
    ///
    /// Returns at once; the handle is a future of the results. If it is dropped or cancelled, or if its timeout passes,
    /// the connection is closed, and the worker's next call opens a new one. If no connection can be opened, the call
    /// fails with `ErrorKind::WorkerState`.
    pub fn call(
        &self,
        function: &'static str,
        parameters: Parameters,
    ) -> Handle<Result<Parameters, CallError>> {
        let job = move |client: &mut Client| {
            let result = with_cancel(client, |client| client.call(function, &parameters));
            // The socket is also shut down if the cancel came at the same time as the answer.
            if job::is_cancelled() || result.as_ref().is_err_and(CallError::is_fatal) {
                job::discard_worker_state();
            }
            result
        };
        run_in_executor(&self.pool, prepare(job).name(function))
    }
}

/// Runs `work`, and shuts the connection down if the job is cancelled meanwhile. This ends a call at any moment: one
/// that has not begun yet finds the connection closed.
fn with_cancel<T>(
    client: &mut Client,
    work: impl FnOnce(&mut Client) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let socket = client.socket().map_err(CallError::Lost)?;
    let _hook = job::on_cancel(move || {
        // An error means that the socket is closed already.
        let _ = socket.shutdown(Shutdown::Both);
    });
    work(client)
}
