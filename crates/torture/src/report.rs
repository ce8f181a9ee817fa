//! The report at the end of a run.

use std::collections::BTreeMap;
use std::process::ExitCode;

use crate::clock::Moment;
use crate::oracle::PoolRecord;
use crate::os::say;
use crate::proc::memory;
use crate::world::World;

/// The number of discrepancies that are printed. The rest are only counted.
const PRINTED: usize = 60;

/// Prints what the run did, and the oracle's verdict.
pub(crate) fn print(world: &World, memory_before: &str, began: Moment) -> ExitCode {
    let oracle = world.oracle();
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, counts) in &oracle.counts {
        say(line(&format!("{kind:?}"), counts));
        for (outcome, count) in counts {
            *all.entry(outcome.clone()).or_default() += count;
        }
    }
    say(line("all", &all));
    let kills: usize = oracle.pools.iter().map(|pool| pool.killed_pids().count()).sum();
    let unclaimed: usize = oracle.pools.iter().map(PoolRecord::unclaimed_kills).sum();
    let (reported, before_begin) = (kills - unclaimed, oracle.killed_before_begin);
    say(format!(
        "\nworkers killed: {kills} (reported to {reported} jobs, {before_begin} of which had not begun)"
    ));
    say(format!("workers stopped: {}", oracle.stops));
    let shut_down = oracle.pools.iter().filter(|pool| pool.is_closing()).count();
    say(format!("pools: {}, of which {shut_down} were shut down and the others dropped", oracle.pools.len()));
    say(format!("jobs cancelled or dropped while surely queued, and not run: {}", oracle.surely_queued));
    drop(oracle);
    say(format!("longest wait: {}", world.waits.longest()));
    let now = Moment::now();
    let (real, fair) = (now.real.saturating_sub(began.real), now.fair.saturating_sub(began.fair));
    say(format!("time: {real:.1?}, of which the program was not kept from running for {fair:.1?}"));
    say(format!("memory before: {memory_before}\nmemory after: {}", memory()));
    say(format!("--seed {}", world.seed));
    let discrepancies = world.discrepancies();
    if discrepancies.is_empty() {
        say("oracle: clean");
        return ExitCode::SUCCESS;
    }
    say(format!("oracle: {} discrepancies", discrepancies.len()));
    for discrepancy in discrepancies.iter().take(PRINTED) {
        say(format!("- {discrepancy}"));
    }
    ExitCode::FAILURE
}

fn line(name: &str, counts: &BTreeMap<String, usize>) -> String {
    let parts: Vec<_> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{name:<14} {:>7}: {}", counts.values().sum::<usize>(), parts.join(", "))
}
