//! Metrics in the text format of Prometheus, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::families::{self, Family, Sample, Samples};
use super::values::{Metrics, PoolKind};
use crate::base::histogram::Histogram;

/// Writes metrics in the text format of Prometheus, to be served as `text/plain; version=0.0.4`.
///
/// Each sample has the labels `pool` and `kind`. The metrics of pools of the same name and kind are added up. Times
/// are in seconds, memory is in bytes.
pub fn prometheus(pools: &[Metrics]) -> String {
    let mut merged: BTreeMap<(&str, PoolKind), Metrics> = BTreeMap::new();
    for pool in pools {
        merged
            .entry((&pool.pool, pool.kind))
            .and_modify(|sum| sum.merge(pool))
            .or_insert_with(|| pool.clone());
    }
    let pools: Vec<Metrics> = merged.into_values().collect();
    let mut page = Page(String::new());
    // Writing to a string does not fail.
    let _ = families::families(&pools)
        .chain(families::advice(&pools))
        .try_for_each(|family| page.write_family(&family));
    page.0
}

/// Writes further families in the same format.
#[cfg(feature = "observe")]
pub(crate) fn write<'a>(families: impl IntoIterator<Item = Family<'a>>) -> String {
    let mut page = Page(String::new());
    // Writing to a string does not fail.
    let _ = families.into_iter().try_for_each(|family| page.write_family(&family));
    page.0
}

struct Page(String);

impl Page {
    fn write_family(&mut self, family: &Family<'_>) -> fmt::Result {
        let Family { name, help, samples } = family;
        let kind = match samples {
            Samples::Counters(_) | Samples::Seconds(_) => "counter",
            Samples::Gauges(_) => "gauge",
            #[cfg(feature = "observe")]
            Samples::GaugeSeconds(_) => "gauge",
            Samples::Histograms(_) => "histogram",
        };
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        match samples {
            Samples::Counters(samples) | Samples::Gauges(samples) => {
                samples.iter().try_for_each(|sample| self.write(name, &sample.labels, sample.value))
            }
            Samples::Seconds(samples) => {
                samples.iter().try_for_each(|sample| self.write(name, &sample.labels, seconds(sample.value)))
            }
            #[cfg(feature = "observe")]
            Samples::GaugeSeconds(samples) => {
                samples.iter().try_for_each(|sample| self.write(name, &sample.labels, seconds(sample.value)))
            }
            Samples::Histograms(samples) => {
                samples.iter().try_for_each(|sample| self.write_histogram(name, sample))
            }
        }
    }

    fn write_histogram(&mut self, name: &str, sample: &Sample<'_, &Histogram>) -> fmt::Result {
        let Sample { labels, value: histogram } = sample;
        for (bound, count) in histogram.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), seconds);
            let labels = [labels.as_slice(), &[("le", &bound)]].concat();
            self.write(&format!("{name}_bucket"), &labels, count)?;
        }
        self.write(&format!("{name}_sum"), labels, seconds(histogram.sum()))?;
        self.write(&format!("{name}_count"), labels, histogram.count())
    }

    /// Writes one line.
    fn write(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) -> fmt::Result {
        write!(self.0, "{name}")?;
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            write!(self.0, "{before}{label}=\"{}\"", Escaped(text))?;
        }
        writeln!(self.0, "}} {value}")
    }
}

/// Formats a time in seconds, exact to the nanosecond.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The value of a label, in which backslashes, quotes and line ends are escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
