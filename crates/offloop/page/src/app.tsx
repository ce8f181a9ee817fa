// The page: what is shown, and in which order.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { AdviceList } from "./advice.tsx";
import { type Finding, findings } from "./attention.ts";
import { Attention, Summary } from "./overview.tsx";
import { Deaths } from "./deaths.tsx";
import { type Asked, CancelDialog, StackDialog } from "./dialogs.tsx";
import { type Service, VERSION } from "./document.ts";
import { Header } from "./header.tsx";
import { History } from "./history.ts";
import { Loops } from "./loops.tsx";
import { Pools } from "./pools.tsx";
import { Processes } from "./processes.tsx";
import { type Connection, Stream } from "./stream.ts";
import { applyTheme, storedTheme, type Theme } from "./theme.ts";
import { Context, type View } from "./view.ts";

/** Shows everything. Each snapshot draws it anew. */
export function App() {
  const history = useRef(new History()).current;
  const [service, setService] = useState<Service | null>(null);
  const [connection, setConnection] = useState<Connection>({ state: "connecting" });
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const [span, setSpan] = useState(300);
  const [pid, setPid] = useState<number | null>(null);
  const [asked, setAsked] = useState<Asked | null>(null);
  const [said, setSaid] = useState("");
  const dark = useDark(theme);

  const stream = useMemo(
    () =>
      new Stream((service) => {
        history.add(service);
        setService(service);
      }, (connection) => {
        if (connection.state !== "live") history.addGap();
        setConnection((before) => (before.state === "live" && connection.state === "live" ? before : connection));
      }),
    [],
  );
  useEffect(() => {
    stream.start();
    return () => stream.pause();
  }, []);

  const chosen = useMemo(() => choose(service, pid), [service, pid]);
  const found = useMemo(() => (chosen === null ? [] : findings(chosen, history)), [chosen]);
  const name = service?.processes[0]?.process.service ?? "";
  useEffect(() => {
    document.title = titleOf(name, connection, found);
  }, [name, connection, found]);

  const view: View = { moments: history.last(span), span, theme: dark ? "dark" : "light", ask: setAsked };
  const isLive = connection.state === "live" || connection.state === "paused";
  return (
    <Context.Provider value={view}>
      <a class="skip" href="#content">
        Skip to the content
      </a>
      <Header
        service={service}
        connection={connection}
        span={span}
        onSpan={setSpan}
        theme={theme}
        onTheme={(theme) => {
          applyTheme(theme);
          setTheme(theme);
        }}
        pid={pid}
        onPid={setPid}
        onPause={() => (connection.state === "paused" ? stream.start() : stream.pause())}
      />
      <main id="content" tabIndex={-1} class={isLive ? undefined : "stale"}>
        <Announcements connection={connection} found={found} said={said} />
        {chosen === null ? (
          <p class="loading">Waits for the first snapshot.</p>
        ) : (
          <>
            {chosen.version > VERSION && (
              <p class="notice">
                This page knows version {VERSION} of the document, and the program sends version {chosen.version}. What is
                new in it is not shown.
              </p>
            )}
            <Attention found={found} />
            <Summary service={chosen} />
            <Loops service={chosen} />
            <Pools service={chosen} />
            <Deaths service={chosen} />
            <AdviceList service={chosen} />
            <Processes service={chosen} />
          </>
        )}
      </main>
      {asked?.what === "stack" && <StackDialog asked={asked} onClose={() => setAsked(null)} />}
      {asked?.what === "cancel" && (
        <CancelDialog asked={asked} onClose={() => setAsked(null)} onDone={setSaid} />
      )}
    </Context.Provider>
  );
}

/** Returns the service with the chosen process alone. All, if that process has gone. */
function choose(service: Service | null, pid: number | null): Service | null {
  const processes = service?.processes.filter((snapshot) => snapshot.process.pid === pid) ?? [];
  return service !== null && processes.length > 0 ? { ...service, processes, missing: [] } : service;
}

/** The title of the tab tells from afar that something is wrong. */
function titleOf(service: string, connection: Connection, found: Finding[]): string {
  const name = service === "" ? "offloop" : `${service} · offloop`;
  if (connection.state === "stopped") return `(stopped) ${name}`;
  return found.length === 0 ? name : `(${found.length}) ${name}`;
}

/** Tells a screen reader what is new: a finding once, when it appears, and never a number that only changes. */
function Announcements({ connection, found, said }: { connection: Connection; found: Finding[]; said: string }) {
  const known = useRef(new Set<string>());
  const [news, setNews] = useState("");
  const keys = found.map((finding) => finding.key).join();
  useEffect(() => {
    const fresh = found.filter((finding) => !known.current.has(finding.key));
    known.current = new Set(found.map((finding) => finding.key));
    if (fresh.length > 0) setNews(fresh.map((finding) => finding.title).join(". "));
  }, [keys]);
  const state = { reconnecting: "Reconnecting.", stopped: "The program does not answer." } as Record<string, string>;
  return (
    <>
      <p role="status" class="announcement">
        {state[connection.state] ?? ""} {news}
      </p>
      <p role="status" class="done">
        {said}
      </p>
    </>
  );
}

/** Returns whether the page is dark at the moment. */
function useDark(theme: Theme): boolean {
  const query = useMemo(() => matchMedia("(prefers-color-scheme: dark)"), []);
  const [system, setSystem] = useState(query.matches);
  useEffect(() => {
    const follow = () => setSystem(query.matches);
    query.addEventListener("change", follow);
    return () => query.removeEventListener("change", follow);
  }, []);
  return theme === "system" ? system : theme === "dark";
}
