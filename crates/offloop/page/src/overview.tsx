import type { ComponentChildren } from "preact";
import type { Finding } from "./attention.ts";
import type { Process, Service, Worker } from "./document.ts";
import { bytes, cores, count, duration, rate } from "./format.ts";
import { keyOfLoop, type Moment } from "./history.ts";
import { isFailure } from "./outcomes.ts";
import { useView } from "./view.ts";

/** What is wrong at the moment. */
export function Attention({ found }: { found: Finding[] }) {
  return (
    <section id="attention" aria-label="Needs attention">
      {found.length === 0 ? (
        <p class="calm">Nothing needs attention.</p>
      ) : (
        <ul>
          {found.map(({ key, kind, title, detail }) => (
            <li key={key} class={kind}>
              <b>{title}</b> <span>{detail}</span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}

const sum = (values: (number | null)[]): number => values.reduce<number>((total, value) => total + (value ?? 0), 0);

/** The service in eight numbers. */
export function Summary({ service }: { service: Service }) {
  const { moments } = useView();
  const pools = service.processes.flatMap((snapshot) => snapshot.pools);
  const rates = pools.flatMap((pool) => Object.entries(pool.outcomes_per_second));
  const waits = pools.flatMap((pool) => pool.queue_wait.recent.p99 ?? []);
  const failing = sum(rates.map(([outcome, rate]) => (isFailure(outcome) ? rate : 0)));
  return (
    <section aria-label="Overview">
      <dl class="summary">
        <Number title="Processes" unit={service.missing.length > 0 ? `and ${service.missing.length} missing` : ""}>
          {count(service.processes.length)}
        </Number>
        <Number title="Cores in use" unit={`of ${service.processes[0]?.process.cores ?? 0}`}>
          {cores(total(service, ({ cores_used }) => cores_used))}
        </Number>
        <Number title="Memory">{bytes(total(service, ({ rss }) => rss))}</Number>
        <Number title="Jobs running">{count(sum(pools.map((pool) => pool.running)))}</Number>
        <Number title="Jobs queued">{count(sum(pools.map((pool) => pool.queued)))}</Number>
        <Number title="Worst wait, p99">{duration(waits.length === 0 ? null : Math.max(...waits))}</Number>
        <Number title="Jobs ended" unit="/s">
          {rate(sum(rates.map(([, rate]) => rate)))}
        </Number>
        <Number title="Jobs failing" unit="/s" kind={failing > 0 ? "bad" : ""}>
          {rate(failing)}
        </Number>
        <Number title="Worst lateness">{duration(worstLateness(service, moments))}</Number>
      </dl>
    </section>
  );
}

function Number(props: { title: string; unit?: string; kind?: string; children: ComponentChildren }) {
  return (
    <div class={props.kind}>
      <dt>{props.title}</dt>
      <dd>
        {props.children}
        {props.unit && <small> {props.unit}</small>}
      </dd>
    </div>
  );
}

/** Adds up a value of the processes and of their worker processes. */
function total({ processes }: Service, value: (one: Process | Worker) => number | null): number {
  const workers = processes.flatMap(({ pools }) => pools.flatMap((pool) => pool.workers));
  return sum([...processes.map(({ process }) => process), ...workers.filter(({ pid }) => pid !== null)].map(value));
}

/** Returns the worst lateness of the last minute. */
function worstLateness({ processes }: Service, moments: Moment[]): number | null {
  const end = moments.at(-1)?.time ?? 0;
  const lately = moments.filter((moment) => moment.time >= end - 60);
  const keys = processes.flatMap(({ process, loops }) => loops.map((loop) => keyOfLoop(process, loop)));
  const late = keys.flatMap((key) => lately.flatMap((moment) => moment.loops.get(key)?.late ?? []));
  return late.length === 0 ? null : Math.max(...late);
}
