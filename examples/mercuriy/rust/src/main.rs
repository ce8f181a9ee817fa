//! Starts mercuriy. See `mercuriy --help`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use mercuriy::options::Options;
use mercuriy::service::Service;
use mercuriy::traces::{self, Process};
use mercuriy::{logs, rfc_server};
use offloop::watch::RuntimeWatchBuilder;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

/// The time after which the process ends, whatever it still does: what was accepted is on the disk.
const LAST_MOMENT: Duration = Duration::from_secs(9);

fn main() -> ExitCode {
    // Workers are copies of this program. They run their jobs in here and do not return; those of a cluster are started
    // with the argument `offloop-worker`.
    offloop::init();
    procspawn::init();
    if let Err(error) = offloop_cluster::init() {
        eprintln!("mercuriy: {error}");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [first, port] if first == rfc_server::ARGUMENT => serve_rfc(port),
        _ => serve(&Options::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mercuriy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_rfc(port: &str) -> Result<(), Box<dyn Error>> {
    Ok(rfc_server::serve(port.parse()?)?)
}

fn serve(options: &Options) -> Result<(), Box<dyn Error>> {
    logs::start(options.otlp.as_deref(), Process::Service)?;
    let stop = stop_at_signals()?;
    let temporary = options.data.is_none().then(tempfile::tempdir).transpose()?;
    let own = temporary.as_ref().map(|folder| folder.path().to_owned());
    let data: PathBuf = options.data.clone().or(own).unwrap_or_default();
    let service = Arc::new(Service::open(options, &data)?);
    // One thread, as an event loop is: a blocking call on it holds up everything else.
    let watch = RuntimeWatchBuilder::new().name("mercuriy");
    let parked = watch.on_thread_park();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(parked).build()?;
    // The log and the live view name what blocks the loop.
    let watch = watch.start(runtime.handle())?;
    let address = SocketAddr::new(options.host, options.port);
    watch.block_on(&runtime, Arc::clone(&service).run(address, stop))?;
    // What blocks a thread after its cancel is left behind.
    drop(watch);
    runtime.shutdown_background();
    drop(service);
    traces::finish();
    Ok(())
}

/// Returns what turns true at SIGTERM or SIGINT. A thread of its own looks for them, because the loop may be blocked.
fn stop_at_signals() -> Result<watch::Receiver<bool>, Box<dyn Error>> {
    let (stop, stopped) = watch::channel(false);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            // An error means that the service has ended already.
            let _ = stop.send(true);
            thread::sleep(LAST_MOMENT);
            tracing::error!("the service has not ended in time, and is ended");
            std::process::exit(1);
        }
    })?;
    Ok(stopped)
}
