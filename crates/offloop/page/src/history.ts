// The last minutes, kept by this page: the program does not keep them.

import type { Bucket, EventLoop, Pool, Process, Service, Snapshot } from "./document.ts";

/** The seconds that are kept. */
export const KEPT = 15 * 60;

/** The rows of a heat map. Row `n` has the times up to 2^n µs: the last ends at 18 minutes. */
export const ROWS = 31;

/** Returns the upper bound of a row, in seconds. */
export const boundOf = (row: number): number => 2 ** row * 1e-6;

const rowOf = (bound: number | null): number =>
  bound === null ? ROWS - 1 : Math.min(ROWS - 1, Math.max(0, Math.ceil(Math.log2(bound * 1e6) - 1e-6)));

/** A pool at one moment. */
export interface PoolPoint {
  queued: number;
  running: number;
  /** The jobs that began since the moment before, by the row of the time that they had waited. */
  waits: Map<number, number>;
}

/** A loop at one moment. */
export interface LoopPoint {
  /** The worst lateness since the moment before. */
  late: number;
  /** The stalls since the moment before, and the time that they took. */
  stalls: number;
  stalled: number;
  /** The same for lateness for lack of a core. */
  starved: number;
  starvedSeconds: number;
}

/** A process at one moment. */
export interface ProcessPoint {
  runDelay: number | null;
  throttled: number | null;
  stolen: number | null;
  coresUsed: number | null;
}

/** What is known of one moment. A moment without anything is a gap: nobody looked. */
export interface Moment {
  time: number;
  pools: Map<string, PoolPoint>;
  loops: Map<string, LoopPoint>;
  processes: Map<string, ProcessPoint>;
}

// Ids are unique within a process, and the ids of processes are used again.
export const keyOfProcess = (process: Process): string => `${process.pid}@${process.started}`;
export const keyOfPool = (process: Process, pool: Pool): string => `${keyOfProcess(process)}/pool/${pool.id}`;
export const keyOfLoop = (process: Process, loop: EventLoop): string => `${keyOfProcess(process)}/loop/${loop.id}`;

/** Returns what was added to the buckets between two snapshots, by the buckets' bounds. */
function added(before: Bucket[], after: Bucket[]): [bound: number | null, count: number][] {
  const counts = new Map(before);
  return after
    .map(([bound, count]): [number | null, number] => [bound, count - (counts.get(bound) ?? 0)])
    .filter(([, count]) => count > 0);
}

export class History {
  #moments: Moment[] = [];
  /** The snapshots of the moment before, by the process's key. Empty after a gap. */
  #before = new Map<string, Snapshot>();

  get moments(): readonly Moment[] {
    return this.#moments;
  }

  /** Appends a moment. */
  add(service: Service): void {
    const time = service.processes[0]?.time ?? Date.now() / 1000;
    const last = this.#moments.at(-1);
    if (last !== undefined && time <= last.time) {
      if (time > last.time - 2) return;
      // The machine's clock was set back: what was before has no place on the same axis.
      this.#moments = [];
    }
    const moment: Moment = { time, pools: new Map(), loops: new Map(), processes: new Map() };
    const before = new Map<string, Snapshot>();
    for (const snapshot of service.processes) {
      const key = keyOfProcess(snapshot.process);
      this.#addProcess(moment, snapshot, this.#before.get(key));
      before.set(key, snapshot);
    }
    this.#before = before;
    this.#moments.push(moment);
    const first = this.#moments.findIndex((moment) => moment.time >= time - KEPT);
    this.#moments.splice(0, Math.max(0, first));
  }

  /** Notes that nobody looks for a while, so that no line is drawn over that time. */
  addGap(): void {
    const last = this.#moments.at(-1);
    if (last === undefined || last.processes.size === 0) return;
    this.#before.clear();
    this.#moments.push({ time: last.time + 0.001, pools: new Map(), loops: new Map(), processes: new Map() });
  }

  #addProcess(moment: Moment, { process, starvation, pools, loops }: Snapshot, before?: Snapshot): void {
    moment.processes.set(keyOfProcess(process), {
      runDelay: starvation.run_delay,
      throttled: starvation.throttled,
      stolen: starvation.stolen,
      coresUsed: process.cores_used,
    });
    for (const pool of pools) {
      const waits = new Map<number, number>();
      const earlier = before?.pools.find((other) => other.id === pool.id);
      if (earlier !== undefined) {
        for (const [bound, count] of added(earlier.queue_wait.buckets, pool.queue_wait.buckets)) {
          const row = rowOf(bound);
          waits.set(row, (waits.get(row) ?? 0) + count);
        }
      }
      moment.pools.set(keyOfPool(process, pool), { queued: pool.queued, running: pool.running, waits });
    }
    for (const loop of loops) {
      const earlier = before?.loops.find((other) => other.id === loop.id);
      const bounds = earlier === undefined ? [] : added(earlier.lateness.buckets, loop.lateness.buckets);
      const worst = bounds.map(([bound]) => bound ?? boundOf(ROWS - 1));
      const since = (name: "stalls" | "stalled" | "starved" | "starved_seconds") =>
        earlier === undefined ? 0 : Math.max(0, loop[name] - earlier[name]);
      moment.loops.set(keyOfLoop(process, loop), {
        late: Math.max(loop.late_now, ...worst),
        stalls: since("stalls"),
        stalled: since("stalled"),
        starved: since("starved"),
        starvedSeconds: since("starved_seconds"),
      });
    }
  }

  /** Returns the moments of the last seconds. */
  last(seconds: number): Moment[] {
    const end = this.#moments.at(-1)?.time ?? 0;
    return this.#moments.filter((moment) => moment.time >= end - seconds);
  }
}
