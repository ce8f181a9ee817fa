import type { Service, Snapshot } from "./document.ts";
import { bytes, cores, count, date, duration, plain } from "./format.ts";
import { type Row, Table } from "./table.tsx";

/** The processes of the service, and those that do not answer. */
export function Processes({ service }: { service: Service }) {
  const missing = service.missing.map(({ pid, reason }): Row => ({
    key: `missing-${pid}`,
    cells: [pid, <span class="bad command">It does not answer: {plain(reason)}</span>, "–", "–", "–", "–", "–"],
  }));
  return (
    <section aria-labelledby="processes">
      <h2 id="processes">Processes</h2>
      <div class="card">
        <Table
          caption="Processes of the service"
          columns={[
            { title: "Process" },
            { title: "Command" },
            { title: "offloop" },
            { title: "Runs for", numeric: true },
            { title: "Cores", numeric: true },
            { title: "Memory", numeric: true },
            { title: "Threads", numeric: true },
          ]}
          rows={[...service.processes.map(rowOf), ...missing]}
          stacks
        />
      </div>
    </section>
  );
}

function rowOf({ process, time }: Snapshot): Row {
  return {
    key: process.pid,
    cells: [
      process.pid,
      <code class="command">{plain(process.command.join(" "), 300)}</code>,
      `${plain(process.offloop, 20)}, ${plain(process.language, 20)}`,
      <time title={date(process.started)}>{duration(Math.max(0, Math.round(time - process.started)))}</time>,
      `${cores(process.cores_used)} of ${process.cores}`,
      bytes(process.rss),
      count(process.threads),
    ],
  };
}
