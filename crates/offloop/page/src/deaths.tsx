import type { Death, Service } from "./document.ts";
import { ago, bytes, date, plain } from "./format.ts";
import { type Row, Table } from "./table.tsx";

/** The last deaths of workers, the newest first, with what they wrote before. */
export function Deaths({ service }: { service: Service }) {
  const all = service.processes
    .flatMap(({ time, deaths }) => deaths.map((death) => ({ death, now: time })))
    .sort((one, other) => other.death.time - one.death.time);
  return (
    <section aria-labelledby="deaths">
      <h2 id="deaths">Deaths of workers</h2>
      <div class="card">
        {all.length === 0 ? (
          <p class="empty">No worker has died.</p>
        ) : (
          <Table
            caption="The last deaths of worker processes"
            columns={[
              { title: "When" },
              { title: "End" },
              { title: "Pool" },
              { title: "Worker", numeric: true },
              { title: "Job" },
              { title: "Peak memory", numeric: true },
            ]}
            rows={all.map(({ death, now }) => rowOf(death, now))}
            most={5}
            stacks
          />
        )}
      </div>
    </section>
  );
}

function rowOf(death: Death, now: number): Row {
  const task = death.task === null ? "" : plain(death.task, 120);
  return {
    key: `${death.pid}@${death.time}`,
    cells: [
      <time title={date(death.time)}>{ago(now - death.time)}</time>,
      <b class={now - death.time < 60 ? "bad" : undefined}>{plain(death.how, 120)}</b>,
      plain(death.pool, 80),
      death.pid,
      death.job === null ? "idle" : (
        <span class="job">
          <b>{task || "unnamed"}</b> <small>{death.job}</small>
        </span>
      ),
      bytes(death.peak_rss),
    ],
    note: death.last_words !== null && death.last_words.trim() !== "" && <LastWords text={death.last_words} />,
  };
}

/** What a worker wrote to its standard error before it died: the end of it, since that is where the reason stands. */
function LastWords({ text }: { text: string }) {
  const most = 4000;
  const end = text.length > most ? `…${text.slice(-most)}` : text;
  return (
    <pre tabIndex={0} role="region" aria-label="Last words">
      {plain(end.trimEnd(), most + 1)}
    </pre>
  );
}
