//! Metrics for the recorder that the program has installed with the `metrics` crate.

#![expect(clippy::cast_precision_loss, reason = "metrics are for people: 53 bits are enough")]

use std::collections::HashMap;

use ::metrics::{Label, counter, gauge, histogram};

use super::families::{Labels, Samples, families};
use super::values::Metrics;
use crate::base::histogram::Histogram;

/// Publishes metrics through the crate [`metrics`], under the names and labels of
/// [`prometheus()`](super::prometheus()).
///
/// Times are in seconds, memory is in bytes. A sample of a histogram is the middle of its bucket.
/// [Advice](super::Advice) is not published.
///
/// Call [`publish`](Self::publish) as often as the metrics are to be fresh; jobs cost nothing more for it.
#[derive(Debug, Default)]
pub struct Publisher {
    /// The histograms as they were published last, by name and labels.
    published: HashMap<(&'static str, Vec<Label>), Histogram>,
}

impl Publisher {
    /// Makes a publisher that has published nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes the metrics of these pools, for instance of [`all`](super::all).
    ///
    /// Pools of the same name and kind cannot be told apart: give them names.
    pub fn publish(&mut self, pools: &[Metrics]) {
        for family in families(pools) {
            let name = family.name;
            match family.samples {
                Samples::Counters(samples) => {
                    for sample in samples {
                        counter!(name, owned(&sample.labels)).absolute(sample.value);
                    }
                }
                Samples::Gauges(samples) => {
                    for sample in samples {
                        gauge!(name, owned(&sample.labels)).set(sample.value as f64);
                    }
                }
                #[cfg(feature = "observe")]
                Samples::GaugeSeconds(samples) => {
                    for sample in samples {
                        gauge!(name, owned(&sample.labels)).set(sample.value.as_secs_f64());
                    }
                }
                Samples::Histograms(samples) => {
                    for sample in samples {
                        self.publish_new_times(name, &owned(&sample.labels), sample.value);
                    }
                }
                // Only advice has these. A counter of the `metrics` crate is a whole number.
                Samples::Seconds(_) => {}
            }
        }
    }

    /// Publishes the times of a histogram that have come since it was published last.
    fn publish_new_times(&mut self, name: &'static str, labels: &[Label], now: &Histogram) {
        let before = self.published.entry((name, labels.to_owned())).or_default();
        for (time, count) in now.added_since(before) {
            histogram!(name, labels.to_owned())
                .record_many(time.as_secs_f64(), usize::try_from(count).unwrap_or(usize::MAX));
        }
        before.clone_from(now);
    }
}

fn owned(labels: &Labels<'_>) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}
