//! The metrics of the service, besides those of its pools.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::messages::Counts;
use crate::service::Service;

/// The counters that requests write.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The requests, by route and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    /// The requests whose clients have not waited for the answer.
    clients_gone: AtomicU64,
}

impl Metrics {
    /// Counts a request that has its answer.
    pub fn count_request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Counts a client that has not waited for the answer.
    pub fn count_client_gone(&self) {
        self.clients_gone.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the metrics of the service and of its pools, in the text format of Prometheus.
pub fn page(service: &Service, messages: &Counts) -> String {
    let mut page = offloop::metrics::prometheus(&offloop::metrics::all());
    // Writing to a string does not fail.
    let _ = write_own(&mut page, service, messages);
    page
}

fn write_own(page: &mut String, service: &Service, messages: &Counts) -> std::fmt::Result {
    writeln!(page, "# TYPE mercuriy_requests_total counter")?;
    let requests = service.metrics.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((route, status), count) in &requests {
        writeln!(page, "mercuriy_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}")?;
    }
    let gone = service.metrics.clients_gone.load(Ordering::Relaxed);
    writeln!(page, "# TYPE mercuriy_clients_gone_total counter\nmercuriy_clients_gone_total {gone}")?;
    writeln!(page, "# TYPE mercuriy_calls_cancelled_total counter")?;
    for system in service.systems.all() {
        let (name, count) = (system.name(), system.cancelled());
        writeln!(page, "mercuriy_calls_cancelled_total{{system=\"{name}\"}} {count}")?;
    }
    writeln!(page, "# TYPE mercuriy_messages gauge")?;
    for (state, count) in messages.iter() {
        writeln!(page, "mercuriy_messages{{state=\"{}\"}} {count}", state.name())?;
    }
    let late = service.heartbeat.worst().as_secs_f64();
    writeln!(page, "# TYPE mercuriy_loop_late_seconds gauge\nmercuriy_loop_late_seconds {late:.6}")?;
    writeln!(page, "# TYPE mercuriy_mode gauge")?;
    let on = service.places.mode();
    service.places.modes().try_for_each(|mode| {
        writeln!(page, "mercuriy_mode{{on=\"{}\"}} {}", mode.name(), u8::from(mode == on))
    })
}
