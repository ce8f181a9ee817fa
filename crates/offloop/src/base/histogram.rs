//! Histograms of times: a recorder to write to, and a plain value to read from.

#![expect(clippy::cast_precision_loss, reason = "metrics are for people: 53 bits are enough")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of buckets of a histogram. Bucket 0 ends at half a microsecond. From there on each second bucket
/// doubles the time, up to 18 minutes. The last bucket has no end.
const BUCKETS: usize = 64;

/// The unit of the bounds of buckets, in nanoseconds.
const UNIT: u64 = 500;

/// Returns the bucket that a time belongs to.
fn bucket_of(nanos: u64) -> usize {
    let units = nanos / UNIT;
    let Some(exponent) = units.checked_ilog2() else { return 0 };
    if exponent == 0 {
        return 1;
    }
    let upper_half = (units >> (exponent - 1)) & 1;
    (2 * exponent as usize + usize::from(upper_half == 1)).min(BUCKETS - 1)
}

/// Returns the least time in a bucket, in nanoseconds.
fn start_of(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        1 => UNIT,
        _ => ((2 + (bucket as u64 & 1)) << (bucket / 2 - 1)) * UNIT,
    }
}

/// A histogram to which any thread can add times, without a lock. Each time costs about two atomic additions.
#[derive(Debug)]
pub struct Recorder {
    /// The number of times in each bucket.
    buckets: [AtomicU64; BUCKETS],
    /// The sum of all times, in nanoseconds.
    sum: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Recorder {
    /// Adds one time.
    pub fn record(&self, time: Duration) {
        let nanos = nanos(time);
        self.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Adds one time to a recorder that no other thread ever adds to. Needs no locked instructions.
    pub(crate) fn record_as_only_writer(&self, time: Duration) {
        let nanos = nanos(time);
        add_as_only_writer(&self.buckets[bucket_of(nanos)], 1);
        add_as_only_writer(&self.sum, nanos);
    }

    /// Returns the times that were recorded until now. Times that are recorded meanwhile may be missing, in the
    /// counts, in the sum or in both.
    pub fn read(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (count, bucket) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        histogram.sum = Duration::from_nanos(self.sum.load(Ordering::Relaxed));
        histogram
    }
}

/// Adds to a number that no other thread ever writes.
pub(crate) fn add_as_only_writer(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The distribution of many times.
///
/// Times are counted in buckets, and each second bucket doubles the time. So a [quantile](Self::quantile) is off by
/// half at worst, and by much less where the times spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// The number of times in each bucket.
    buckets: [u64; BUCKETS],
    /// The sum of all times.
    sum: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: Duration::ZERO }
    }
}

impl Histogram {
    /// Returns the number of times that were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all times.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Returns the mean of all times. `None` if there are none.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| Duration::from_secs_f64(self.sum.as_secs_f64() / count as f64))
    }

    /// Returns the time that a share of all times, from 0 to 1, does not exceed. A share of 0.5 gives the median.
    ///
    /// The result is interpolated within its bucket. `None` if there are no times.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        for (bucket, in_bucket) in self.buckets.iter().enumerate() {
            let in_bucket = *in_bucket as f64;
            if in_bucket > 0.0 && below + in_bucket >= rank {
                let (start, end) = (start_of(bucket), start_of((bucket + 1).min(BUCKETS - 1)));
                let inside = (end - start) as f64 * ((rank - below) / in_bucket);
                return Some(Duration::from_secs_f64((start as f64 + inside) / 1e9));
            }
            below += in_bucket;
        }
        None
    }

    /// Iterates over the upper bounds of all buckets and the number of times below each, as Prometheus counts them. The
    /// last bucket has no bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let mut below = 0;
        self.buckets.iter().enumerate().map(move |(bucket, count)| {
            below += count;
            let bound = (bucket + 1 < BUCKETS).then(|| Duration::from_nanos(start_of(bucket + 1)));
            (bound, below)
        })
    }

    /// Adds the times of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.sum += other.sum;
    }

    /// Returns the times that were recorded since this histogram was `earlier`.
    #[cfg(feature = "observe")]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        for (now, then) in new.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*then);
        }
        new.sum = self.sum.saturating_sub(earlier.sum);
        new
    }

    /// Iterates over the buckets that are not empty: the upper bound of each, and the number of its times. The last
    /// bucket, which has no end, is given the bound that the next one would begin with.
    #[cfg(feature = "observe")]
    pub(crate) fn filled(&self) -> impl DoubleEndedIterator<Item = (Duration, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (Duration::from_nanos(start_of(bucket + 1)), *count))
    }

    /// Adds one time.
    pub(crate) fn record(&mut self, time: Duration) {
        self.buckets[bucket_of(nanos(time))] += 1;
        self.sum = self.sum.saturating_add(time);
    }

    /// Iterates over the buckets that have got times since `before`: the middle of each, and the number of new times.
    #[cfg(feature = "metrics")]
    pub(crate) fn added_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (Duration, u64)> + 'a {
        let counts = self.buckets.iter().zip(&before.buckets).enumerate();
        counts.filter(|(_, (now, before))| now > before).map(|(bucket, (now, before))| {
            let (start, end) = (start_of(bucket), start_of((bucket + 1).min(BUCKETS - 1)));
            (Duration::from_nanos(u64::midpoint(start, end)), now - before)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_buckets_cover_all_times_without_gaps() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        for bucket in 1..BUCKETS {
            let start = start_of(bucket);
            assert_eq!((bucket_of(start - 1), bucket_of(start)), (bucket - 1, bucket), "at {start} ns");
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_half_at_worst(
            mut times in prop::collection::vec(1_000_u64..1_000_000_000, 1..200),
            share in 0.0..1.0,
        ) {
            let recorder = Recorder::default();
            for nanos in &times {
                recorder.record(Duration::from_nanos(*nanos));
            }
            times.sort_unstable();
            let rank = times.iter().zip(1_u32..).find(|(_, rank)| f64::from(*rank) >= share * times.len() as f64);
            let exact = *rank.expect("the last one is").0 as f64;
            let found = recorder.read().quantile(share).expect("it is not empty").as_nanos() as f64;
            prop_assert!((found / exact - 1.0).abs() <= 0.51, "{found} for {exact}");
        }

        #[test]
        fn what_is_merged_is_as_if_recorded_together(
            ours in prop::collection::vec(any::<u32>(), 0..50),
            theirs in prop::collection::vec(any::<u32>(), 0..50),
        ) {
            let record = |times: &[u32]| {
                let recorder = Recorder::default();
                for nanos in times {
                    recorder.record_as_only_writer(Duration::from_nanos((*nanos).into()));
                }
                recorder.read()
            };
            let mut merged = record(&ours);
            merged.merge(&record(&theirs));
            prop_assert_eq!(merged, record(&[ours, theirs].concat()));
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.mean(), empty.quantile(0.5)), (0, None, None));
    }
}
