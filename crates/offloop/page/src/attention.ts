// What an operator should look at first, as sentences.

import type { EventLoop, Pool, Service, Snapshot } from "./document.ts";
import { ago, duration, plain, plural, share } from "./format.ts";
import { type History, keyOfLoop, type LoopPoint } from "./history.ts";

/** The kind of a finding. Blocking and the lack of cores look alike from outside, and have opposite remedies. */
export type Kind = "blocked" | "starved" | "queue" | "death" | "missing";

export interface Finding {
  /** Stays the same while the finding lasts, though its numbers change. */
  key: string;
  kind: Kind;
  /** The finding in a few words, without numbers that change: it is read aloud once. */
  title: string;
  detail: string;
}

/** The seconds that "of late" means. */
const LATELY = 60;

/** The seconds from which on the oldest job of a queue is worth a look. */
const LONG_WAIT = 5;

/** The shares from which on the lack of cores is worth a look. */
const RUN_DELAY = 0.5;
const THROTTLED = 0.05;
const STOLEN = 0.1;

export function findings(service: Service, history: History): Finding[] {
  const several = service.processes.length + service.missing.length > 1;
  const found = service.processes.flatMap((snapshot) => {
    const of = several ? ` of process ${snapshot.process.pid}` : "";
    return [
      ...snapshot.loops.flatMap((loop) => ofLoop(snapshot, loop, of, history)),
      ...ofStarvation(snapshot, several),
      ...snapshot.pools.flatMap((pool) => ofPool(snapshot, pool, of)),
      ...ofDeaths(snapshot),
    ];
  });
  const missing = service.missing.map(({ pid, reason }): Finding => ({
    key: `missing/${pid}`,
    kind: "missing",
    title: `Process ${pid} does not answer`,
    detail: plain(reason),
  }));
  return [...found, ...missing];
}

function ofLoop({ process }: Snapshot, loop: EventLoop, of: string, history: History): Finding[] {
  const key = keyOfLoop(process, loop);
  const name = `Loop ${plain(loop.name, 60)}${of}`;
  const lately = history.last(LATELY).flatMap((moment) => moment.loops.get(key) ?? []);
  const sum = (value: (point: LoopPoint) => number) => lately.reduce((total, point) => total + value(point), 0);
  const found: Finding[] = [];
  const stalls = sum((point) => point.stalls);
  if (loop.late_now > loop.threshold) {
    found.push({
      key: `${key}/stands`,
      kind: "blocked",
      title: `${name} stands still`,
      detail: `nothing has run on it for ${duration(loop.late_now)}`,
    });
  } else if (stalls > 0) {
    const [latest] = [...loop.places].sort((one, other) => other.last - one.last);
    const where = latest === undefined ? "" : `, last in ${plain(latest.function, 80)}`;
    found.push({
      key: `${key}/stalls`,
      kind: "blocked",
      title: `${name} was blocked`,
      detail: `${plural(stalls, "stall")} in the last minute, ${duration(sum((point) => point.stalled))} in total${where}`,
    });
  }
  const starved = sum((point) => point.starved);
  if (starved > 0) {
    found.push({
      key: `${key}/starved`,
      kind: "starved",
      title: `${name} was late because it had no core`,
      detail: `${plural(starved, "time")} in the last minute, ${duration(sum((point) => point.starvedSeconds))} in total`,
    });
  }
  return found;
}

function ofStarvation({ process, starvation }: Snapshot, several: boolean): Finding[] {
  const { run_delay, throttled, stolen } = starvation;
  const reasons = [
    (run_delay ?? 0) >= RUN_DELAY && `threads waited ${share(run_delay)} of the time of one core`,
    (throttled ?? 0) >= THROTTLED && `its control group was throttled ${share(throttled)} of the time`,
    (stolen ?? 0) >= STOLEN && `the host took away ${share(stolen)} of the machine`,
  ].filter((reason) => reason !== false);
  if (reasons.length === 0) return [];
  const title = several ? `Process ${process.pid} has too few cores` : "The process has too few cores";
  return [{ key: `${process.pid}/cores`, kind: "starved", title, detail: reasons.join("; ") }];
}

function ofPool({ process }: Snapshot, pool: Pool, of: string): Finding[] {
  const key = `${process.pid}/${pool.id}`;
  const name = `${plain(pool.name, 60)}${of}`;
  const waits = pool.oldest_queued === null ? "" : `its oldest job has been waiting for ${duration(pool.oldest_queued)}`;
  if (pool.capacity !== null && pool.capacity > 0 && pool.queued >= pool.capacity) {
    const detail = [plural(pool.queued, "job"), waits].filter((part) => part !== "").join("; ");
    return [{ key: `${key}/full`, kind: "queue", title: `The queue of ${name} is full`, detail }];
  }
  if ((pool.oldest_queued ?? 0) >= LONG_WAIT) {
    const detail = `${plural(pool.queued, "job")}; ${waits}`;
    return [{ key: `${key}/waits`, kind: "queue", title: `Jobs wait long for ${name}`, detail }];
  }
  return [];
}

function ofDeaths({ process, time, deaths }: Snapshot): Finding[] {
  const lately = deaths.filter((death) => time - death.time < LATELY);
  const [last] = lately;
  if (last === undefined) return [];
  const task = last.task === null ? "" : `, while it ran ${plain(last.task, 80)}`;
  return [
    {
      key: `${process.pid}/death/${last.pid}@${last.time}`,
      kind: "death",
      title: `A worker of ${plain(last.pool, 60)} died`,
      detail:
        `worker ${last.pid} ${plain(last.how, 80)}, ${ago(time - last.time)}${task}` +
        (lately.length > 1 ? `; ${plural(lately.length, "death")} in the last minute` : ""),
    },
  ];
}
