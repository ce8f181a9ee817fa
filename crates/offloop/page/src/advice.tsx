import type { Service } from "./document.ts";
import { plain } from "./format.ts";
import { Sentence } from "./sentence.tsx";

/** The jobs that would be better off elsewhere. */
export function AdviceList({ service }: { service: Service }) {
  const all = service.processes.flatMap(({ process, advice }) => advice.map((one) => ({ ...one, pid: process.pid })));
  if (all.length === 0) return null;
  return (
    <section aria-labelledby="advice">
      <h2 id="advice">Advice</h2>
      <ul class="card advice">
        {all.map(({ pid, pool, task, activity, text }) => (
          <li key={`${pid}/${pool}/${task}`}>
            <b>{plain(task, 120)}</b> <small>on {plain(pool, 80)}, {plain(activity, 20)}</small>
            <p>
              <Sentence text={text} />
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}
