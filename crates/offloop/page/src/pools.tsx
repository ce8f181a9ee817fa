import { useState } from "preact/hooks";
import type { Job, Pool, Quantiles, Service, Snapshot, Worker } from "./document.ts";
import { Fact } from "./facts.tsx";
import { Fold, OPENED } from "./fold.tsx";
import { bytes, cores, count, duration, plain, rate, words } from "./format.ts";
import { keyOfPool, type Moment } from "./history.ts";
import { byOrder, isFailure } from "./outcomes.ts";
import { Heat, type Line, Plot } from "./plots.tsx";
import { type Row, Table } from "./table.tsx";
import { useView, type View } from "./view.ts";

/** The states of workers, in the order of the bar. */
const STATES = ["busy", "blocked", "starting", "leaving", "idle"];

export function Pools({ service }: { service: Service }) {
  const all = service.processes.flatMap((snapshot) => snapshot.pools.map((pool) => ({ snapshot, pool })));
  const several = service.processes.length > 1;
  return (
    <section aria-labelledby="pools">
      <h2 id="pools">Pools</h2>
      {all.length === 0 && <p class="empty card">No pool has been built yet. A pool appears here with its first job.</p>}
      {all.map(({ snapshot, pool }, at) => (
        <PoolCard
          key={keyOfPool(snapshot.process, pool)}
          snapshot={snapshot}
          pool={pool}
          several={several}
          opened={at < OPENED}
        />
      ))}
    </section>
  );
}

interface PoolProps {
  snapshot: Snapshot;
  pool: Pool;
}

function PoolCard({ snapshot, pool, several, opened }: PoolProps & { several: boolean; opened: boolean }) {
  const [open, setOpen] = useState(opened);
  const body = `pool-${snapshot.process.pid}-${pool.id}`;
  return (
    <article class="card pool">
      <div class="head">
        <h3>
          <Fold name={plain(pool.name, 80)} open={open} onOpen={setOpen} body={body} />{" "}
          <small>
            {plain(pool.kind, 20)}
            {several && `, process ${snapshot.process.pid}`}
          </small>
        </h3>
      </div>
      <Heading pool={pool} />
      <div id={body} hidden={!open}>
        {open && <Body snapshot={snapshot} pool={pool} />}
      </div>
    </article>
  );
}

/** The pool in a line. */
function Heading({ pool }: { pool: Pool }) {
  const rates = Object.entries(pool.outcomes_per_second);
  const failing = rates.filter(([outcome]) => isFailure(outcome)).reduce((total, [, rate]) => total + rate, 0);
  const full = pool.capacity !== null && pool.capacity > 0 && pool.queued >= pool.capacity;
  return (
    <dl class="facts heading">
      <Fact title="Queue" kind={full ? "queue" : ""}>
        {count(pool.queued)} {pool.capacity !== null && <small>of {count(pool.capacity)}</small>}
      </Fact>
      <Fact title="Oldest waits">{duration(pool.oldest_queued)}</Fact>
      <Fact title="Running">{count(pool.running)}</Fact>
      <Fact title="Workers" kind="wide">
        <Workforce pool={pool} />
      </Fact>
      <Fact title="Waiting, p99">{duration(pool.queue_wait.recent.p99)}</Fact>
      <Fact title="Running, p99">{duration(pool.run_time.recent.p99)}</Fact>
      <Fact title="Ended">
        {rate(rates.reduce((total, [, rate]) => total + rate, 0))} <small>/s</small>
      </Fact>
      <Fact title="Failing" kind={failing > 0 ? "bad" : ""}>
        {rate(failing)} <small>/s</small>
      </Fact>
    </dl>
  );
}

/** The workers by state, as words, and as a bar whose full width is the number of workers that the pool may have. */
function Workforce({ pool }: { pool: Pool }) {
  if (pool.kind === "remote") return <>elsewhere</>;
  const known = STATES.filter((state) => (pool.workers_by_state[state] ?? 0) > 0);
  const others = Object.keys(pool.workers_by_state).filter(
    (state) => !STATES.includes(state) && (pool.workers_by_state[state] ?? 0) > 0,
  );
  const states = [...known, ...others].map((state) => ({ state, workers: pool.workers_by_state[state] ?? 0 }));
  const total = states.reduce((sum, { workers }) => sum + workers, 0);
  const width = Math.max(total, pool.max_workers, 1);
  return (
    <>
      <span class="bar" aria-hidden="true">
        {states.map(({ state, workers }) => (
          <i key={state} class={STATES.includes(state) ? state : "idle"} style={{ width: `${(workers / width) * 100}%` }} />
        ))}
      </span>
      {states.length === 0 ? "none" : states.map(({ state, workers }) => `${count(workers)} ${words(state)}`).join(", ")}{" "}
      <small>of {count(pool.max_workers)}</small>
    </>
  );
}

function Body({ snapshot, pool }: PoolProps) {
  const { moments, span, theme } = useView();
  const key = keyOfPool(snapshot.process, pool);
  const point = (moment: Moment) => moment.pools.get(key);
  const lines: Line[] = [
    { title: "queued", colour: "queue", shape: "area", value: (moment) => point(moment)?.queued ?? null },
    { title: "running", colour: "running", value: (moment) => point(moment)?.running ?? null },
  ];
  const { recent } = pool.queue_wait;
  const summary =
    recent.count === 0
      ? "No job has begun in the last minute."
      : `Last minute: half waited up to ${duration(recent.p50)}, 99 of 100 up to ${duration(recent.p99)}`;
  const plots = { moments, span, theme };
  return (
    <>
      <div class="plots">
        <Plot title="Queue" lines={lines} format={(value) => count(Math.round(value))} least={4} {...plots} />
        <Heat title="Waiting time" value={(moment) => point(moment)?.waits} summary={summary} {...plots} />
      </div>
      <div class="columns">
        <Distributions pool={pool} />
        <Outcomes pool={pool} />
        <Workers pool={pool} />
      </div>
      <Jobs snapshot={snapshot} pool={pool} />
    </>
  );
}

function Distributions({ pool }: { pool: Pool }) {
  const row = (title: string, { count: number, p50, p99, max }: Quantiles): Row => ({
    key: title,
    cells: [title, count(number), duration(p50), duration(p99), duration(max)],
  });
  return (
    <Table
      caption="How long jobs wait and run"
      columns={[
        { title: "Times" },
        { title: "Jobs", numeric: true },
        { title: "p50", numeric: true },
        { title: "p99", numeric: true },
        { title: "Worst", numeric: true },
      ]}
      rows={[
        row("Waiting, last minute", pool.queue_wait.recent),
        row("Waiting, since the start", pool.queue_wait.total),
        row("Running, last minute", pool.run_time.recent),
        row("Running, since the start", pool.run_time.total),
      ]}
    />
  );
}

function Outcomes({ pool }: { pool: Pool }) {
  const outcomes = Object.keys(pool.outcomes)
    .filter((outcome) => (pool.outcomes[outcome] ?? 0) > 0 || outcome === "completed")
    .sort(byOrder);
  const restarts = Object.entries(pool.restarts).filter(([, number]) => number > 0);
  const rows = outcomes.map((outcome): Row => {
    const perSecond = pool.outcomes_per_second[outcome] ?? 0;
    return {
      key: outcome,
      cells: [
        <span class={isFailure(outcome) && perSecond > 0 ? "bad" : undefined}>{words(outcome)}</span>,
        rate(perSecond),
        count(pool.outcomes[outcome] ?? 0),
      ],
    };
  });
  const facts = [
    ...restarts.map(([reason, number]) => [`Workers replaced: ${words(reason)}`, count(number)] as const),
    ...(pool.retried > 0 ? [["Jobs run again", count(pool.retried)] as const] : []),
    ...(pool.arena === null
      ? []
      : [["Shared memory", `${bytes(pool.arena.used)} used, ${bytes(pool.arena.kept)} kept`] as const]),
  ];
  return (
    <div>
      <Table
        caption="Jobs by the way in which they ended"
        columns={[{ title: "Outcome" }, { title: "Per second", numeric: true }, { title: "Jobs", numeric: true }]}
        rows={rows}
      />
      {facts.length > 0 && (
        <dl class="list">
          {facts.map(([title, value]) => (
            <div key={title}>
              <dt>{title}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      )}
    </div>
  );
}

function Workers({ pool }: { pool: Pool }) {
  const isProcesses = pool.kind === "processes";
  const id = (worker: Worker) => worker.pid ?? worker.thread;
  if (pool.kind === "remote") return <p class="empty">Its workers belong to other programs.</p>;
  if (pool.workers.length === 0) {
    return <p class="empty">{isProcesses ? "No worker runs." : "No thread has a job."}</p>;
  }
  return (
    <Table
      caption={isProcesses ? "Worker processes" : "Threads that have a job"}
      columns={[
        { title: isProcesses ? "Worker" : "Thread" },
        { title: "State" },
        { title: "Memory", numeric: true },
        { title: "Cores", numeric: true },
        { title: "Age", numeric: true },
      ]}
      rows={pool.workers.map((worker, at) => ({
        key: id(worker) ?? `?${at}`,
        cells: [
          id(worker) ?? "–",
          <span class={`worker ${STATES.includes(worker.state) ? worker.state : ""}`}>{words(worker.state)}</span>,
          bytes(worker.rss),
          cores(worker.cores_used),
          duration(worker.age),
        ],
      }))}
      most={8}
    />
  );
}

function Jobs({ snapshot, pool }: PoolProps) {
  const { ask } = useView();
  if (pool.jobs.length === 0) return <p class="empty">No job runs.</p>;
  const hidden = pool.running - pool.jobs.length;
  return (
    <>
      <Table
        caption={`Jobs that run on ${plain(pool.name, 80)}`}
        columns={[
          { title: "Job" },
          { title: "Running", numeric: true },
          { title: "Time left", numeric: true },
          { title: "Request" },
          { title: pool.kind === "threads" ? "Thread" : "Worker", numeric: true },
          { title: "Actions" },
        ]}
        rows={pool.jobs.map((job) => rowOf(snapshot, pool, job, ask))}
        most={10}
        stacks
      />
      {hidden > 0 && <p class="hint">The {count(pool.jobs.length)} longest of {count(pool.running)} jobs.</p>}
    </>
  );
}

function rowOf({ process }: Snapshot, pool: Pool, job: Job, ask: View["ask"]): Row {
  const name = job.name === null ? "unnamed" : plain(job.name, 120);
  const asked = { pid: process.pid, id: job.id, name, kind: pool.kind };
  return {
    key: job.id,
    cells: [
      <span class="job">
        <b>{name}</b> <small>{job.id}</small> {job.is_cancelled && <em>asked to stop</em>}
      </span>,
      duration(job.running),
      job.time_left === null ? "no limit" : duration(Math.max(0, job.time_left)),
      job.request === null ? "–" : <code>{plain(job.request, 80)}</code>,
      job.pid ?? job.thread ?? "–",
      <span class="actions">
        <button type="button" aria-label={`Stack of job ${job.id}, ${name}`} onClick={() => ask({ what: "stack", ...asked })}>
          Stack
        </button>
        {process.may_cancel && (
          <button
            type="button"
            class="danger"
            disabled={job.is_cancelled}
            aria-label={`Cancel job ${job.id}, ${name}`}
            onClick={() => ask({ what: "cancel", ...asked })}
          >
            Cancel
          </button>
        )}
      </span>,
    ],
  };
}
