import type { Service } from "./document.ts";
import { clock, plain } from "./format.ts";
import type { Connection } from "./stream.ts";
import { THEMES, type Theme } from "./theme.ts";

interface HeaderProps {
  service: Service | null;
  connection: Connection;
  span: number;
  onSpan: (span: number) => void;
  theme: Theme;
  onTheme: (theme: Theme) => void;
  pid: number | null;
  onPid: (pid: number | null) => void;
  onPause: () => void;
}

const SPANS = [
  [60, "1 min"],
  [300, "5 min"],
  [900, "15 min"],
] as const;

export function Header(props: HeaderProps) {
  const { service, connection, span, theme, pid } = props;
  const processes = service?.processes ?? [];
  const [first] = processes;
  const isPaused = connection.state === "paused";
  return (
    <header>
      <h1>
        {plain(first?.process.service ?? "", 80) || "offloop"} <span class="product">offloop</span>
      </h1>
      <State connection={connection} time={first?.time ?? null} />
      <div class="tools">
        {processes.length > 1 && (
          <label>
            <span>Show</span>
            <select
              value={pid ?? ""}
              onChange={({ currentTarget: { value } }) => props.onPid(value === "" ? null : Number(value))}
            >
              <option value="">all processes</option>
              {processes.map(({ process }) => (
                <option key={process.pid} value={process.pid}>
                  process {process.pid}
                </option>
              ))}
            </select>
          </label>
        )}
        <label>
          <span>Plots</span>
          <select value={span} onChange={({ currentTarget: { value } }) => props.onSpan(Number(value))}>
            {SPANS.map(([seconds, text]) => (
              <option key={seconds} value={seconds}>
                {text}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>Colours</span>
          <select
            value={theme}
            onChange={({ currentTarget: { value } }) => props.onTheme(THEMES.find((name) => name === value) ?? "system")}
          >
            {THEMES.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <button type="button" class="pause" onClick={props.onPause}>
          {isPaused ? "Resume" : "Pause"}
        </button>
      </div>
    </header>
  );
}

/** The state of the connection, in a word, a shape and a colour. */
function State({ connection, time }: { connection: Connection; time: number | null }) {
  const at = time === null ? "" : clock(time);
  const failed = connection.state === "reconnecting" || connection.state === "stopped" ? connection : null;
  return (
    <p class={`state ${connection.state}`} data-state={connection.state}>
      <span class="dot" aria-hidden="true" />
      <b>{connection.state}</b>
      {failed === null ? (
        <span class="when">{at}</span>
      ) : (
        <span class="why">
          {plain(failed.reason, 200)}
          {at !== "" && `; last answer at ${at}`}
        </span>
      )}
    </p>
  );
}
