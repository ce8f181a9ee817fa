// The stream of snapshots: reads server-sent events, and begins again when they end.
//
// It uses `fetch` instead of `EventSource`, which does not tell why a server refuses, and gives up when it does.

import { readService, type Service } from "./document.ts";
import { get, Refused } from "./requests.ts";

/** The state of the connection. */
export type Connection =
  | { state: "connecting" | "live" | "paused" }
  /** The program does not answer. `since` is when it last did, in milliseconds since the epoch. */
  | { state: "reconnecting" | "stopped"; since: number; reason: string };

/** The seconds between two snapshots. */
const EVERY = 1;

/** The milliseconds without an event after which the connection counts as lost. */
const SILENCE = 10_000;

/** The milliseconds without an answer after which the program counts as stopped. The page goes on asking. */
const STOPPED = 8000;

/** The milliseconds between two attempts: from the first to the longest. */
const PAUSES = [250, 500, 1000, 2000];

export class Stream {
  #onService: (service: Service) => void;
  #onConnection: (connection: Connection) => void;
  #abort: AbortController | null = null;

  constructor(onService: (service: Service) => void, onConnection: (connection: Connection) => void) {
    this.#onService = onService;
    this.#onConnection = onConnection;
  }

  /** Connects, and stays connected until `pause`. */
  start(): void {
    this.#abort?.abort();
    this.#abort = new AbortController();
    void this.#run(this.#abort.signal);
  }

  /** Ends the connection: the program then does nothing for this page. */
  pause(): void {
    this.#abort?.abort();
    this.#abort = null;
    this.#onConnection({ state: "paused" });
  }

  async #run(stop: AbortSignal): Promise<void> {
    let since = Date.now();
    let failures = 0;
    this.#onConnection({ state: "connecting" });
    while (!stop.aborted) {
      let reason = "the connection ended";
      let refused = false;
      try {
        await this.#read(stop, () => {
          since = Date.now();
          failures = 0;
        });
      } catch (error) {
        refused = error instanceof Refused && error.isFinal;
        reason = error instanceof Refused ? error.message : "the program does not answer";
      }
      if (stop.aborted) return;
      const isStopped = refused || Date.now() - since > STOPPED;
      this.#onConnection({ state: isStopped ? "stopped" : "reconnecting", since, reason });
      const pause = PAUSES[Math.min(failures, PAUSES.length - 1)];
      failures += 1;
      await new Promise((resolve) => setTimeout(resolve, refused ? 5000 : pause));
    }
  }

  /** Reads one connection to its end. */
  async #read(stop: AbortSignal, onEvent: () => void): Promise<void> {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE);
    try {
      const answer = await get(`events?every=${EVERY}`, AbortSignal.any([stop, silence.signal]));
      if (answer.body === null) return;
      const chunks = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const events = new EventParser();
      for (;;) {
        const { value, done } = await chunks.read();
        if (done) return;
        for (const data of events.push(value)) {
          if (stop.aborted) return;
          clearTimeout(timer);
          timer = setTimeout(() => silence.abort(), SILENCE);
          onEvent();
          this.#onService(readService(JSON.parse(data)));
          this.#onConnection({ state: "live" });
        }
      }
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }
}

/** Divides a stream of server-sent events. Only their data matter here: all are of one kind. */
export class EventParser {
  #rest = "";
  #data: string[] = [];

  /** Takes the next part of the stream, and returns the data of the events that end in it. */
  push(chunk: string): string[] {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop() ?? "";
    const events: string[] = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
      }
    }
    return events;
  }
}
