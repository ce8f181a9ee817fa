//! What a worker tells about its work.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::records::Outcome;

/// What a worker has done since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerMetrics {
    /// The number of jobs that it may run at a time.
    pub slots: usize,
    /// The number of jobs that it runs.
    pub running: usize,
    /// Counts the starts of jobs.
    pub started: u64,
    /// Counts those among them that were taken over from a worker that was silent.
    pub taken_over: u64,
    /// Counts the ends that it has written, by their outcome.
    pub ended: BTreeMap<Outcome, u64>,
    /// Counts the ends that were refused because another worker had taken the job over.
    pub refused: u64,
    /// Counts the messages that it has given back.
    pub given_back: u64,
    /// Counts the copies of jobs that it has put with the dead ones.
    pub dead: u64,
    /// Counts the renewals of its hold on a job that came late.
    pub late_renewals: u64,
    /// The time that the last stored write has taken.
    pub round_trip: Duration,
}

impl WorkerMetrics {
    /// Returns them in the text format of Prometheus, to be served as `text/plain; version=0.0.4`. Times are in seconds.
    /// The names begin with `offloop_cluster_`, and each sample has the label `worker` with this name.
    pub fn prometheus(&self, worker: &str) -> String {
        let worker = worker.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let mut page = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
            let mut text =
                format!("# HELP offloop_cluster_{name} {help}\n# TYPE offloop_cluster_{name} {kind}\n");
            for (label, value) in samples {
                // Writing to a string does not fail.
                let _ = writeln!(text, "offloop_cluster_{name}{{worker=\"{worker}\"{label}}} {value}");
            }
            page += &text;
        };
        #[allow(clippy::cast_precision_loss, reason = "the format has numbers of 64 bits with a fraction")]
        let one = |count: u64| [(String::new(), count as f64)];
        family("slots", "gauge", "Jobs that the worker may run at a time.", &one(self.slots as u64));
        family("running", "gauge", "Jobs that it runs.", &one(self.running as u64));
        family("started_total", "counter", "Starts of jobs.", &one(self.started));
        family("taken_over_total", "counter", "Starts of jobs of silent workers.", &one(self.taken_over));
        let ended: Vec<_> = (self.ended.iter())
            .map(|(outcome, count)| (format!(",outcome=\"{outcome:?}\""), one(*count)[0].1))
            .collect();
        family("ended_total", "counter", "Ends of jobs that it has written.", &ended);
        family("refused_total", "counter", "Ends that came after another worker's.", &one(self.refused));
        family("given_back_total", "counter", "Messages that it has given back.", &one(self.given_back));
        family("dead_total", "counter", "Copies of jobs with the dead ones.", &one(self.dead));
        family("late_renewals_total", "counter", "Renewals that came late.", &one(self.late_renewals));
        let round_trip = [(String::new(), self.round_trip.as_secs_f64())];
        family("round_trip_seconds", "gauge", "The time of the last stored write.", &round_trip);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_format_of_prometheus() {
        let ended = BTreeMap::from([(Outcome::Returned, 3), (Outcome::Lost, 1)]);
        let round_trip = Duration::from_micros(1500);
        let metrics = WorkerMetrics { slots: 2, ended, round_trip, ..WorkerMetrics::default() };
        let page = metrics.prometheus("a \"b\"");
        for line in [
            "# TYPE offloop_cluster_ended_total counter",
            "offloop_cluster_slots{worker=\"a \\\"b\\\"\"} 2",
            "offloop_cluster_ended_total{worker=\"a \\\"b\\\"\",outcome=\"Lost\"} 1",
            "offloop_cluster_round_trip_seconds{worker=\"a \\\"b\\\"\"} 0.0015",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} in {page}");
        }
    }
}
