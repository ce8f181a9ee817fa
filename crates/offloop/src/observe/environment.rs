//! The view of a program that says nothing of it: opened by an environment variable.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use linkme::distributed_slice;

use super::server::{self, Server};
use crate::base::fork::PerProcess;
use crate::metrics::view::first_pool::{self, ON_FIRST_POOL};

/// The variable: `1` opens the Unix socket, an address such as `127.0.0.1:8811` HTTP as well.
const VARIABLE: &str = "OFFLOOP_OBSERVE";

/// The token for HTTP.
const TOKEN: &str = "OFFLOOP_OBSERVE_TOKEN";

/// Each process reads the variable when its first pool is built.
#[distributed_slice(ON_FIRST_POOL)]
static READ: fn() = init_from_env;

/// Returns whether this is the first call in this process.
fn is_first() -> bool {
    static IS_READ: PerProcess<AtomicBool> = PerProcess::new();
    !IS_READ.get(AtomicBool::default).swap(true, Ordering::Relaxed)
}

/// Opens the view if the environment asks for it: `OFFLOOP_OBSERVE=1` for the Unix socket, `OFFLOOP_OBSERVE=127.0.0.1:8811`
/// for that and HTTP, with the token in `OFFLOOP_OBSERVE_TOKEN` if there is one.
///
/// This happens by itself when the first pool of a process is built, also in forked children. So it need only be called to
/// open the view before. Each process does it once. Worker processes of pools do not: they are seen in their pool's
/// process. A program with more rights than its user does not either.
///
/// If the view cannot be opened, a line on standard error says why, and the program goes on. If another process has the
/// HTTP address, such as another worker of the same server, this process is shown there.
pub fn init_from_env() {
    if first_pool::is_worker() || !is_first() {
        return;
    }
    let Some(wanted) = std::env::var_os(VARIABLE) else { return };
    let wanted = wanted.to_string_lossy().trim().to_owned();
    if matches!(wanted.as_str(), "" | "0") || has_raised_rights() {
        return;
    }
    if let Some(server) = open(&wanted) {
        server::keep(server);
    }
}

fn open(wanted: &str) -> Option<Server> {
    // The program may have opened the view itself before. Its socket serves as well.
    let has_socket = server::has_socket();
    let mut builder = Server::builder().unix(!has_socket);
    if let Some(token) = std::env::var_os(TOKEN).filter(|token| !token.is_empty()) {
        builder = builder.token(token.to_string_lossy());
    }
    if wanted == "1" {
        return if has_socket { None } else { report(builder.start_beside()) };
    }
    match builder.clone().http(wanted).start_beside() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let server = if has_socket { None } else { report(builder.start_beside()) };
            eprintln!(
                "offloop: {VARIABLE}: {wanted} is in use: process {} is shown there if that is a process of the same \
                 service",
                std::process::id()
            );
            server
        }
        other => report(other),
    }
}

fn report(started: io::Result<Server>) -> Option<Server> {
    started.inspect_err(|error| eprintln!("offloop: {VARIABLE}: the view is not open: {error}")).ok()
}

/// Returns whether the program has more rights than the user who has started it, and has set its environment.
fn has_raised_rights() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the function only reads what the kernel has told the process at its start.
    return unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    #[cfg(not(target_os = "linux"))]
    false
}
