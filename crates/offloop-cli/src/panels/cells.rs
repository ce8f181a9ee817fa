//! Cells that several panels have.

use offloop::observe::document::{Quantiles, Snapshot};

use super::sight::{Sight, Symbols};
use crate::history::{BAND_COUNT, Key, Sample};
use crate::table::{Cell, Tone};
use crate::text;

/// The width of the strips in tables.
const STRIP: usize = 24;

/// Returns quantiles in words, of the last time and of all.
pub(super) fn quantiles(recent: &Quantiles, total: &Quantiles) -> String {
    let words = |quantiles: &Quantiles| {
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), text::duration);
        format!("p50 {} p99 {} max {}", shown(quantiles.p50), shown(quantiles.p99), shown(quantiles.max))
    };
    let span = text::duration(recent.seconds.max(0.0));
    format!("{} (last {span}), {} (all {})", words(recent), words(total), text::count(total.count))
}

/// Returns the items of all processes, each with its process.
pub(super) fn each<'a, T: 'a>(
    sight: &Sight<'a>,
    items: impl Fn(&'a Snapshot) -> &'a Vec<T>,
) -> impl Iterator<Item = (&'a Snapshot, &'a T)> {
    sight
        .service
        .processes
        .iter()
        .flat_map(move |snapshot| items(snapshot).iter().map(move |item| (snapshot, item)))
}

pub(super) fn pid(pid: u32) -> Cell {
    Cell::number(Some(f64::from(pid)), |_| pid.to_string())
}

pub(super) fn size(bytes: Option<u64>) -> Cell {
    Cell::number(bytes.map(|bytes| bytes as f64), |_| bytes.map(text::bytes).unwrap_or_default())
}

/// Returns a quantile, or an empty cell if nothing was measured.
pub(super) fn time(of: &Quantiles, value: Option<f64>) -> Cell {
    Cell::number(value.filter(|_| of.count > 0), text::duration)
}

pub(super) fn lateness(value: Option<f64>, threshold: f64) -> Cell {
    let is_bad = threshold > 0.0 && value.is_some_and(|value| value >= threshold);
    Cell::number(value, text::duration).toned_if(is_bad, Tone::Bad)
}

/// Returns the levels of a series as a strip. The highest one fills its line.
pub(super) fn level_strip(sight: &Sight<'_>, series: Key) -> Cell {
    let samples: Vec<_> = sight.history.last(series, STRIP).map(|sample| sample.level).collect();
    let top = samples.iter().copied().fold(0.0, f64::max);
    let levels = &sight.symbols.levels;
    let character = |level: f64| {
        let share = if top > 0.0 { (level / top).clamp(0.0, 1.0) } else { 0.0 };
        levels[(share * (levels.len() - 1) as f64).ceil() as usize]
    };
    if samples.is_empty() {
        return Cell::default();
    }
    let padding = std::iter::repeat_n((' ', Tone::Plain), STRIP - samples.len());
    Cell::strip(padding.chain(samples.iter().map(|level| (character(*level), Tone::Plain))))
}

/// Returns the worst lateness of each sample as a strip.
pub(super) fn lateness_strip(sight: &Sight<'_>, series: Key, threshold: f64) -> Cell {
    let samples: Vec<_> = sight.history.last(series, STRIP).collect();
    if samples.is_empty() {
        return Cell::default();
    }
    let padding = std::iter::repeat_n((' ', Tone::Plain), STRIP - samples.len());
    let marks = samples.iter().map(|sample| lateness_mark(sample, threshold, sight.symbols));
    Cell::strip(padding.chain(marks))
}

fn lateness_mark(sample: &Sample, threshold: f64, symbols: &Symbols) -> (char, Tone) {
    const HEIGHTS: [usize; BAND_COUNT] = [1, 2, 4, 6, 7, 8];
    let band = sample.worst().into_iter().chain((sample.level > 0.0).then(|| band_of(sample.level))).max();
    // The band reaches from a tenth of the next one on.
    let is_stall = sample.level >= threshold || band.is_some_and(|band| band > band_of(threshold));
    let tone = if is_stall && threshold > 0.0 { Tone::Bad } else { Tone::Plain };
    (symbols.levels[band.map_or(0, |band| HEIGHTS[band])], tone)
}

/// Returns the band that a time belongs to.
fn band_of(seconds: f64) -> usize {
    crate::history::BANDS.iter().position(|limit| seconds <= *limit).unwrap_or(BAND_COUNT - 1)
}
