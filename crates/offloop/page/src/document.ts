// The document that the program sends: the types of crates/offloop/src/observe/document.rs, and reading it.
//
// Times of day are seconds since the epoch, durations seconds, sizes bytes, shares go from 0 to 1.

/** The version of the document that this page knows. */
export const VERSION = 1;

type Maybe<T> = T | null;

export interface Process {
  pid: number;
  service: string;
  command: string[];
  language: string;
  offloop: string;
  started: number;
  cores_used: Maybe<number>;
  cores: number;
  rss: Maybe<number>;
  threads: Maybe<number>;
  may_cancel: boolean;
}

export interface Starvation {
  seconds: number;
  run_delay: Maybe<number>;
  throttled: Maybe<number>;
  stolen: Maybe<number>;
}

export interface Quantiles {
  count: number;
  seconds: number;
  p50: Maybe<number>;
  p99: Maybe<number>;
  max: Maybe<number>;
}

/** The upper bound of a bucket, and its count. The bound of the last bucket is null: it has no end. */
export type Bucket = [Maybe<number>, number];

export interface Times {
  recent: Quantiles;
  total: Quantiles;
  buckets: Bucket[];
}

export interface Worker {
  pid: Maybe<number>;
  thread: Maybe<number>;
  state: string;
  rss: Maybe<number>;
  cores_used: Maybe<number>;
  age: Maybe<number>;
}

export interface Job {
  id: number;
  name: Maybe<string>;
  request: Maybe<string>;
  running: number;
  time_left: Maybe<number>;
  pid: Maybe<number>;
  thread: Maybe<number>;
  is_cancelled: boolean;
}

export interface Arena {
  used: number;
  kept: number;
}

export interface Pool {
  id: number;
  name: string;
  kind: string;
  queued: number;
  capacity: Maybe<number>;
  oldest_queued: Maybe<number>;
  running: number;
  workers_by_state: Record<string, number>;
  max_workers: number;
  workers: Worker[];
  jobs: Job[];
  queue_wait: Times;
  run_time: Times;
  outcomes: Record<string, number>;
  outcomes_per_second: Record<string, number>;
  retried: number;
  restarts: Record<string, number>;
  arena: Maybe<Arena>;
}

export interface Place {
  file: Maybe<string>;
  line: Maybe<number>;
  function: string;
  stalls: number;
  stalled: number;
  longest: number;
  last: number;
  activity: Maybe<string>;
  advice: Maybe<string>;
}

export interface EventLoop {
  id: number;
  name: string;
  kind: string;
  threshold: number;
  late_now: number;
  lateness: Times;
  stalls: number;
  stalled: number;
  starved: number;
  starved_seconds: number;
  places: Place[];
}

export interface Death {
  time: number;
  pool: string;
  pid: number;
  how: string;
  job: Maybe<number>;
  task: Maybe<string>;
  peak_rss: Maybe<number>;
  last_words: Maybe<string>;
}

export interface Advice {
  pool: string;
  task: string;
  activity: string;
  text: string;
}

export interface Snapshot {
  version: number;
  time: number;
  process: Process;
  starvation: Starvation;
  pools: Pool[];
  loops: EventLoop[];
  deaths: Death[];
  advice: Advice[];
}

export interface Missing {
  pid: number;
  reason: string;
}

export interface Service {
  version: number;
  processes: Snapshot[];
  missing: Missing[];
}

/** A frame of a stack, and the answer that has them. */
export interface Frame {
  function: string;
  file: Maybe<string>;
  line: Maybe<number>;
}

export interface Stack {
  thread: Maybe<string>;
  frames: Frame[];
  note: Maybe<string>;
}

// A reader takes the default for what is missing: an older process of the same service may send less. It also takes the
// default for what has another type than it should, so that nothing below has to check.

type Fields = Record<string, unknown>;
type Read<T> = (value: unknown) => T;

const fields = (value: unknown): Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
const number: Read<number> = (value) => (typeof value === "number" && Number.isFinite(value) ? value : 0);
const text: Read<string> = (value) => (typeof value === "string" ? value : "");
const truth: Read<boolean> = (value) => value === true;
const maybe =
  <T>(read: Read<T>): Read<Maybe<T>> =>
  (value) =>
    value === null || value === undefined ? null : read(value);
const list =
  <T>(read: Read<T>): Read<T[]> =>
  (value) =>
    Array.isArray(value) ? value.map(read) : [];
const counts: Read<Record<string, number>> = (value) =>
  Object.fromEntries(Object.entries(fields(value)).map(([name, count]) => [name, number(count)]));

/** Makes a reader of an object from the readers of its fields. */
function object<T>(shape: { [Name in keyof T]: Read<T[Name]> }): Read<T> {
  const readers = Object.entries(shape) as [string, Read<unknown>][];
  return (value) => {
    const given = fields(value);
    return Object.fromEntries(readers.map(([name, read]) => [name, read(given[name])])) as T;
  };
}

const bucket: Read<Bucket> = (value) => {
  const [bound, count] = Array.isArray(value) ? value : [null, 0];
  return [maybe(number)(bound), number(count)];
};

const quantiles = object<Quantiles>({
  count: number,
  seconds: number,
  p50: maybe(number),
  p99: maybe(number),
  max: maybe(number),
});

const times = object<Times>({ recent: quantiles, total: quantiles, buckets: list(bucket) });

const pool = object<Pool>({
  id: number,
  name: text,
  kind: text,
  queued: number,
  capacity: maybe(number),
  oldest_queued: maybe(number),
  running: number,
  workers_by_state: counts,
  max_workers: number,
  workers: list(
    object<Worker>({
      pid: maybe(number),
      thread: maybe(number),
      state: text,
      rss: maybe(number),
      cores_used: maybe(number),
      age: maybe(number),
    }),
  ),
  jobs: list(
    object<Job>({
      id: number,
      name: maybe(text),
      request: maybe(text),
      running: number,
      time_left: maybe(number),
      pid: maybe(number),
      thread: maybe(number),
      is_cancelled: truth,
    }),
  ),
  queue_wait: times,
  run_time: times,
  outcomes: counts,
  outcomes_per_second: counts,
  retried: number,
  restarts: counts,
  arena: maybe(object<Arena>({ used: number, kept: number })),
});

const loop = object<EventLoop>({
  id: number,
  name: text,
  kind: text,
  threshold: number,
  late_now: number,
  lateness: times,
  stalls: number,
  stalled: number,
  starved: number,
  starved_seconds: number,
  places: list(
    object<Place>({
      file: maybe(text),
      line: maybe(number),
      function: text,
      stalls: number,
      stalled: number,
      longest: number,
      last: number,
      activity: maybe(text),
      advice: maybe(text),
    }),
  ),
});

const snapshot = object<Snapshot>({
  version: number,
  time: number,
  process: object<Process>({
    pid: number,
    service: text,
    command: list(text),
    language: text,
    offloop: text,
    started: number,
    cores_used: maybe(number),
    cores: number,
    rss: maybe(number),
    threads: maybe(number),
    may_cancel: truth,
  }),
  starvation: object<Starvation>({
    seconds: number,
    run_delay: maybe(number),
    throttled: maybe(number),
    stolen: maybe(number),
  }),
  pools: list(pool),
  loops: list(loop),
  deaths: list(
    object<Death>({
      time: number,
      pool: text,
      pid: number,
      how: text,
      job: maybe(number),
      task: maybe(text),
      peak_rss: maybe(number),
      last_words: maybe(text),
    }),
  ),
  advice: list(object<Advice>({ pool: text, task: text, activity: text, text })),
});

/** Reads the processes of a service. */
export const readService = object<Service>({
  version: number,
  processes: list(snapshot),
  missing: list(object<Missing>({ pid: number, reason: text })),
});

/** Reads the stack of a job. */
export const readStack = object<Stack>({
  thread: maybe(text),
  frames: list(object<Frame>({ function: text, file: maybe(text), line: maybe(number) })),
  note: maybe(text),
});
