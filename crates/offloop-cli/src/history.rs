//! How some values have changed while they were watched.

use std::collections::{HashMap, VecDeque};

use offloop::observe::document::{Service, Times};

/// The most samples of a series: five minutes at one a second.
const MOST: usize = 300;

/// The upper bounds of the bands in which times are counted, the shortest first. The last band has none.
pub(crate) const BANDS: [f64; 5] = [0.001, 0.01, 0.1, 1.0, 10.0];
/// The number of bands.
pub(crate) const BAND_COUNT: usize = BANDS.len() + 1;

/// The thing that a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) pid: u32,
    pub(crate) of: Of,
    pub(crate) id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Of {
    /// The queue of a pool, and the times that its jobs have waited.
    Pool,
    /// The lateness of a loop.
    Loop,
    /// The cores that a process uses.
    Process,
}

/// The values of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) level: f64,
    /// The number of times in each band since the sample before.
    pub(crate) bands: [u64; BAND_COUNT],
}

impl Sample {
    /// Returns the band of the longest time.
    pub(crate) fn worst(&self) -> Option<usize> {
        self.bands.iter().rposition(|count| *count > 0)
    }
}

#[derive(Debug, Default)]
struct Series {
    samples: VecDeque<Sample>,
    /// The counts of the last document.
    counts: Option<[u64; BAND_COUNT]>,
    /// The round in which it was last seen.
    round: u64,
}

/// The series of all things that a service has.
#[derive(Debug, Default)]
pub(crate) struct History {
    series: HashMap<Key, Series>,
    round: u64,
}

impl History {
    /// Adds a sample to each series. The series of things that are gone are dropped.
    pub(crate) fn update(&mut self, service: &Service) {
        self.round += 1;
        for snapshot in &service.processes {
            let pid = snapshot.process.pid;
            if let Some(cores) = snapshot.process.cores_used {
                self.add(Key { pid, of: Of::Process, id: 0 }, cores, None);
            }
            for pool in &snapshot.pools {
                self.add(Key { pid, of: Of::Pool, id: pool.id }, pool.queued as f64, Some(&pool.queue_wait));
            }
            for watched in &snapshot.loops {
                self.add(
                    Key { pid, of: Of::Loop, id: watched.id },
                    watched.late_now,
                    Some(&watched.lateness),
                );
            }
        }
        let round = self.round;
        self.series.retain(|_, series| series.round == round);
    }

    fn add(&mut self, key: Key, level: f64, times: Option<&Times>) {
        let series = self.series.entry(key).or_default();
        // Two things with one number would otherwise count as one that goes back and forth.
        if std::mem::replace(&mut series.round, self.round) == self.round {
            return;
        }
        let counts = times.map(count);
        let bands = match (series.counts, counts) {
            (Some(before), Some(now)) => std::array::from_fn(|band| now[band].saturating_sub(before[band])),
            _ => [0; BAND_COUNT],
        };
        series.counts = counts;
        if series.samples.len() == MOST {
            series.samples.pop_front();
        }
        series.samples.push_back(Sample { level, bands });
    }

    /// Returns the last samples of a series, at most so many, the oldest first.
    pub(crate) fn last(&self, key: Key, most: usize) -> impl Iterator<Item = Sample> {
        let samples = self.series.get(&key).map(|series| &series.samples);
        let skipped = samples.map_or(0, |samples| samples.len().saturating_sub(most));
        samples.into_iter().flatten().skip(skipped).copied()
    }
}

/// Counts the times in each band.
fn count(times: &Times) -> [u64; BAND_COUNT] {
    let mut bands = [0_u64; BAND_COUNT];
    for (bound, count) in &times.buckets {
        // A bucket belongs to the band of its upper bound, with some room for bounds that are not exact.
        let band = BANDS.iter().position(|limit| *bound <= limit * 1.05).unwrap_or(BANDS.len());
        bands[band] = bands[band].saturating_add(*count);
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(counts: &str) -> Service {
        let text = format!(
            r#"{{"processes": [{{"process": {{"pid": 7}}, "loops": [
                {{"id": 1, "late_now": 0.5, "lateness": {{"buckets": {counts}}}}}]}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_sample_counts_what_happened_since_the_one_before() {
        let key = Key { pid: 7, of: Of::Loop, id: 1 };
        let mut history = History::default();
        history.update(&document("[[0.001, 100], [0.5, 3]]"));
        history.update(&document("[[0.001, 150], [0.5, 4], [20, 1]]"));
        // The program was restarted.
        history.update(&document("[[0.001, 2]]"));
        let samples: Vec<_> = history.last(key, 10).collect();
        assert_eq!(
            samples.iter().map(|sample| sample.bands).collect::<Vec<_>>(),
            [[0; 6], [50, 0, 0, 1, 0, 1], [0; 6]]
        );
        assert_eq!(samples[1].worst(), Some(5));
        assert!(samples[1].level > 0.4);
        assert_eq!(history.last(key, 2).count(), 2);
        history.update(&Service::default());
        assert_eq!(history.last(key, 10).count(), 0);
    }

    #[test]
    fn a_series_has_a_limit() {
        let mut history = History::default();
        for _ in 0..MOST + 5 {
            history.update(&document("[]"));
        }
        assert_eq!(history.last(Key { pid: 7, of: Of::Loop, id: 1 }, usize::MAX).count(), MOST);
    }
}
