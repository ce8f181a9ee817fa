//! The wrapper: what there is to do to use a blocking connector from an async program. Any other one is wrapped
//! likewise.

use std::net::{Shutdown, SocketAddr};

use offloop::{BuildError, Handle, StatePool, ThreadPool, discard_state, job, prepare, run_in_executor};

use crate::client::{CallError, Client};
use crate::wire::Parameters;

/// Some connections to a server, each on a thread of its own.
#[derive(Debug, Clone)]
pub struct Connector {
    pool: StatePool<Client>,
}

impl Connector {
    /// Connects when the calls come: `connections` at most, one for each call that runs.
    pub fn new(server: SocketAddr, connections: usize) -> Result<Self, BuildError> {
        let threads = ThreadPool::builder().name("connector").max_threads(connections);
        Ok(Self { pool: threads.build_with_state(move || Client::connect(server))? })
    }

    /// Calls a function of the server.
    ///
    /// Returns at once; the handle is a future of the results. To drop or cancel it, or to let its timeout pass,
    /// hangs up on the server, and the worker's next call has a new connection. Without a connection the call ends
    /// with `ErrorKind::State`.
    pub fn call(
        &self,
        function: &'static str,
        parameters: Parameters,
    ) -> Handle<Result<Parameters, CallError>> {
        let job = move |client: &mut Client| {
            let result = with_cancel(client, |client| client.call(function, &parameters));
            // A cancel that came with the answer has shut the socket down all the same.
            if job::is_cancelled() || result.as_ref().is_err_and(CallError::is_fatal) {
                discard_state();
            }
            result
        };
        run_in_executor(&self.pool, prepare(job).name(function))
    }
}

/// Runs `work`; if its job is cancelled meanwhile, hangs up. That ends a call at any moment: one that has not begun
/// finds the connection closed.
fn with_cancel<T>(
    client: &mut Client,
    work: impl FnOnce(&mut Client) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let socket = client.socket().map_err(CallError::Lost)?;
    let _hook = job::on_cancel(move || {
        // An error says that it is closed already.
        let _ = socket.shutdown(Shutdown::Both);
    });
    work(client)
}
