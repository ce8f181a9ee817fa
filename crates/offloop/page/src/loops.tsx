import { useState } from "preact/hooks";
import type { EventLoop, Place, Service, Snapshot } from "./document.ts";
import { Fact } from "./facts.tsx";
import { Fold, OPENED } from "./fold.tsx";
import { ago, count, date, duration, plain, plural, share, shortPath } from "./format.ts";
import { keyOfLoop, keyOfProcess, type Moment } from "./history.ts";
import { type Line, Plot } from "./plots.tsx";
import { Sentence } from "./sentence.tsx";
import { type Row, Table } from "./table.tsx";
import { useView } from "./view.ts";

/** The event loops, and beside each the cores that its process lacks: both make it late, and have opposite remedies. */
export function Loops({ service }: { service: Service }) {
  const several = service.processes.length > 1;
  return (
    <section aria-labelledby="loops">
      <h2 id="loops">Event loops</h2>
      {service.processes.map((snapshot, at) => (
        <div key={keyOfProcess(snapshot.process)} class="pair">
          <div>
            {snapshot.loops.length === 0 && <NoLoop language={snapshot.process.language} />}
            {snapshot.loops.map((loop) => (
              <Loop key={loop.id} snapshot={snapshot} loop={loop} several={several} opened={at < OPENED} />
            ))}
          </div>
          <Starvation snapshot={snapshot} several={several} opened={at < OPENED} />
        </div>
      ))}
    </section>
  );
}

function NoLoop({ language }: { language: string }) {
  return (
    <article class="card">
      <p class="empty">
        No loop is watched.{" "}
        {language === "python" ? (
          <>
            Start the program with <code>OFFLOOP_WATCH=1</code>.
          </>
        ) : (
          <>
            Build the runtime with <code>offloop::watch</code>.
          </>
        )}
      </p>
    </article>
  );
}

interface CardProps {
  snapshot: Snapshot;
  several: boolean;
  opened: boolean;
}

function Loop({ snapshot, loop, several, opened }: CardProps & { loop: EventLoop }) {
  const { moments, span, theme } = useView();
  const [open, setOpen] = useState(opened);
  const { process, time } = snapshot;
  const key = keyOfLoop(process, loop);
  const point = (moment: Moment) => moment.loops.get(key);
  const lines: Line[] = [
    { title: "worst lateness", colour: "blocked", shape: "area", value: (moment) => point(moment)?.late ?? null },
    {
      title: "without a core",
      colour: "starved",
      shape: "bars",
      // A bar of no height would still be drawn.
      value: (moment) => point(moment)?.starvedSeconds || null,
    },
    {
      title: "counts as stall",
      colour: "quiet",
      shape: "dashes",
      limit: true,
      value: (moment) => (point(moment) === undefined ? null : loop.threshold),
    },
  ];
  const plots = { moments, span, theme };
  const { recent, total } = loop.lateness;
  const body = `loop-${process.pid}-${loop.id}`;
  const stands = loop.late_now > loop.threshold;
  return (
    <article class={`card ${stands ? "blocked" : ""}`}>
      <div class="head">
        <h3>
          <Fold name={plain(loop.name, 80)} open={open} onOpen={setOpen} body={body} />{" "}
          <small>{plain(loop.kind, 20)}{several && `, process ${process.pid}`}</small>
        </h3>
        <p class={`now ${stands ? "bad" : ""}`}>
          {loop.late_now > 0 ? `late by ${duration(loop.late_now)} now` : "on time"}
        </p>
      </div>
      <dl class="facts">
        <Fact title="p50 in 1 min">{duration(recent.p50)}</Fact>
        <Fact title="p99 in 1 min">{duration(recent.p99)}</Fact>
        <Fact title="Worst in 1 min">{duration(recent.max)}</Fact>
        <Fact title="p99 of all">{duration(total.p99)}</Fact>
        <Fact title="Worst of all">{duration(total.max)}</Fact>
        <Fact title="Stalls (blocked)" kind={loop.stalls > 0 ? "blocked" : ""}>
          {count(loop.stalls)} <small>{duration(loop.stalled)}</small>
        </Fact>
        <Fact title="Had no core" kind={loop.starved > 0 ? "starved" : ""}>
          {count(loop.starved)} <small>{duration(loop.starved_seconds)}</small>
        </Fact>
      </dl>
      <div id={body} hidden={!open}>
        {open && <Plot title="Lateness" lines={lines} format={duration} least={loop.threshold * 1.2} {...plots} />}
        {open && loop.places.length > 0 && (
          <Table
            caption={`Places that stall the loop ${plain(loop.name, 80)}`}
            columns={[
              { title: "What stalls it" },
              { title: "Meanwhile" },
              { title: "Stalls", numeric: true },
              { title: "In total", numeric: true },
              { title: "Longest", numeric: true },
              { title: "Last", numeric: true },
            ]}
            rows={loop.places.map((place, at) => rowOf(place, at, time))}
            most={6}
            stacks
          />
        )}
      </div>
    </article>
  );
}

function rowOf(place: Place, at: number, now: number): Row {
  const line = place.line === null ? "" : `:${place.line}`;
  return {
    key: at,
    cells: [
      <span class="place">
        <b>{plain(place.function, 120)}</b> {place.file !== null && <code title={plain(place.file)}>{plain(shortPath(place.file)) + line}</code>}
      </span>,
      place.activity === null ? "–" : plain(place.activity, 20),
      count(place.stalls),
      duration(place.stalled),
      duration(place.longest),
      <time title={date(place.last)}>{ago(now - place.last)}</time>,
    ],
    note: place.advice !== null && <Sentence text={place.advice} />,
  };
}

/** The cores that a process lacks. */
function Starvation({ snapshot, several, opened }: CardProps) {
  const { moments, span, theme } = useView();
  const [open, setOpen] = useState(opened);
  const { process, starvation } = snapshot;
  const key = keyOfProcess(process);
  const point = (moment: Moment) => moment.processes.get(key);
  const lines: Line[] = [
    { title: "waits for a core", colour: "starved", shape: "area", value: (moment) => point(moment)?.runDelay ?? null },
    { title: "throttled", colour: "queue", value: (moment) => point(moment)?.throttled ?? null },
    { title: "taken by the host", colour: "quiet", value: (moment) => point(moment)?.stolen ?? null },
  ];
  const plots = { moments, span, theme };
  const body = `cores-${process.pid}`;
  const title = `Lack of cores${several ? `, process ${process.pid}` : ""}`;
  return (
    <article class="card">
      <div class="head">
        <h3>
          <Fold name={title} open={open} onOpen={setOpen} body={body} />
        </h3>
        <p class="now">{plural(process.cores, "core")}</p>
      </div>
      <dl class="facts four">
        <Fact title="Waits for core">{share(starvation.run_delay)}</Fact>
        <Fact title="Throttled">{share(starvation.throttled)}</Fact>
        <Fact title="Taken by host">{share(starvation.stolen)}</Fact>
        <Fact title="Cores in use">{process.cores_used === null ? "–" : process.cores_used.toFixed(2)}</Fact>
      </dl>
      <div id={body} hidden={!open}>
        {open && <Plot title="Share of time" lines={lines} format={share} least={0.2} {...plots} />}
        <p class="hint">
          This is no blocking: the threads could have run. Give the process more cores, or fewer threads and workers that
          compute.
        </p>
      </div>
    </article>
  );
}
