//! The service: what its handlers share, its start and its end.

use std::error::Error;
use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::audit::Audit;
use crate::error::ApiError;
use crate::heartbeat::Heartbeat;
use crate::messages::{Delivery, Messages};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::places::Places;
use crate::routes;
use crate::systems::{Addresses, Systems};

/// The documents that may be in memory at a time.
const DOCUMENTS: usize = 32;

/// The time that requests under way have to end when the service stops.
const DRAIN: Duration = Duration::from_secs(5);

/// The time that messages being delivered have to arrive when the service stops.
const DELIVERY_DRAIN: Duration = Duration::from_secs(2);

/// The time that jobs have to end when their pool is shut down after that.
const POOL_DRAIN: Duration = Duration::from_millis(500);

/// What the handlers share.
#[derive(Debug)]
pub struct Service {
    /// The place of the blocking work.
    pub places: Places,
    /// The systems whose functions are called.
    pub systems: Systems,
    /// The file of messages.
    pub messages: Messages,
    /// The audit log.
    pub audit: Audit,
    /// The counters.
    pub metrics: Metrics,
    /// The lateness of the loop.
    pub heartbeat: Heartbeat,
    /// One for each document that may be in memory.
    pub document_permits: Arc<Semaphore>,
    /// The data folder.
    pub data: PathBuf,
    /// The time for which nothing of a body may come.
    pub body_pause: Duration,
    is_stopping: AtomicBool,
}

impl Service {
    /// Opens the files in the folder `data`, and prepares the systems and the pools. Blocks.
    pub fn open(options: &Options, data: &Path) -> Result<Self, Box<dyn Error>> {
        let files = data.join("files");
        fs::create_dir_all(&files)?;
        if fs::read_dir(&files)?.next().is_none() {
            fs::write(files.join("welcome.txt"), "This file is served by mercuriy.\n")?;
        }
        let address = |given: &Option<String>, variable| {
            given.clone().or_else(|| std::env::var(variable).ok()).filter(|address| !address.is_empty())
        };
        let cluster = address(&options.cluster, "OFFLOOP_CLUSTER_URL");
        let addresses = Addresses {
            postgres: address(&options.postgres, "OFFLOOP_POSTGRES_URL"),
            tarantool: address(&options.tarantool, "OFFLOOP_TARANTOOL_URL"),
            rfc: options.rfc.clone(),
        };
        Ok(Self {
            places: Places::new(options.on, options.otlp.clone(), cluster.as_deref())?,
            systems: Systems::new(&addresses)?,
            messages: Messages::open(&data.join("messages.sqlite"))?,
            audit: Audit::open(&data.join("audit.jsonl"))?,
            metrics: Metrics::default(),
            heartbeat: Heartbeat::default(),
            document_permits: Arc::new(Semaphore::new(DOCUMENTS)),
            data: data.to_owned(),
            body_pause: options.body_timeout,
            is_stopping: AtomicBool::new(false),
        })
    }

    /// Returns whether the service refuses new work, because it is about to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Refuses work whose body has come when the service is stopping already.
    pub fn check_open(&self) -> Result<(), ApiError> {
        if self.is_stopping() { Err(ApiError::stopping()) } else { Ok(()) }
    }

    /// Serves until `stop` turns true. Then ends what has begun, or hands it back.
    pub async fn run(self: Arc<Self>, address: SocketAddr, stop: watch::Receiver<bool>) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        announce(listener.local_addr()?)?;
        let beating = spawn_with(&self, |service| async move { service.heartbeat.beat().await });
        let auditing = spawn_with(&self, |service| async move { service.audit.write(&service.places).await });
        let delivering = tokio::spawn(Delivery::new(Arc::clone(&self)).run(stop.clone(), DELIVERY_DRAIN));

        let listener = listener.tap_io(|stream| {
            // An error only means that small answers may come later.
            let _ = stream.set_nodelay(true);
        });
        let stopping = Arc::clone(&self);
        let mut asked = stop.clone();
        let graceful = async move {
            // An error means that nobody can ask any more.
            let _ = asked.wait_for(|stop| *stop).await;
            stopping.is_stopping.store(true, Ordering::Relaxed);
            tracing::info!("the service is stopping");
        };
        let routes = routes::router(Arc::clone(&self)).into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(listener, routes).with_graceful_shutdown(graceful);
        let serving = serving.into_future();
        tokio::pin!(serving);
        let mut asked = stop;
        tokio::select! {
            served = &mut serving => served?,
            _ = asked.wait_for(|stop| *stop) => {
                if timeout(DRAIN, &mut serving).await.is_err() {
                    tracing::warn!("some requests have not ended in time, and are dropped");
                }
            }
        }
        // An error means that the task has panicked. What it leaves is handed back by the next start.
        let _ = delivering.await;
        beating.abort();
        auditing.abort();
        self.audit.finish()?;
        self.systems.shut_down(POOL_DRAIN).await;
        self.places.shut_down(POOL_DRAIN).await;
        Ok(())
    }
}

fn spawn_with<F: Future<Output = ()> + Send + 'static>(
    service: &Arc<Service>,
    task: impl FnOnce(Arc<Service>) -> F,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(task(Arc::clone(service)))
}

/// Tells the address, on standard output.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "mercuriy (rust) listens on http://{address}")?;
    output.flush()
}
