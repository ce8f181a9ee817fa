import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Stack } from "./document.ts";
import { plain } from "./format.ts";
import { cancel, Refused, stackOf } from "./requests.ts";

/** The job that a dialog is about. */
export interface Asked {
  what: "stack" | "cancel";
  pid: number;
  id: number;
  name: string;
  kind: string;
}

const messageOf = (error: unknown): string =>
  plain(error instanceof Refused ? error.message : "The program does not answer.");

/** A modal dialog. The browser keeps the focus in it, ends it at Escape, and gives the focus back. */
function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => element.current?.showModal(), []);
  return (
    <dialog ref={element} aria-labelledby="dialog-title" onClose={props.onClose}>
      <h2 id="dialog-title">{props.title}</h2>
      {props.children}
    </dialog>
  );
}

/** What happens to a job that is cancelled, by the kind of its pool. */
const CONSEQUENCES: Record<string, string> = {
  threads: "It runs in a thread, which cannot be ended: the job is asked to stop, and its caller stops waiting.",
  processes: "It runs in a worker process, which is ended with it and replaced. What the job has done outside stays done.",
  remote: "It runs elsewhere: its worker is told to end it, and its caller stops waiting. What the job has done stays done.",
};

const close = (event: Event) => (event.currentTarget as HTMLElement).closest("dialog")?.close();

/** The stack of a job at the moment at which the reader asks for it. */
export function StackDialog({ asked, onClose }: { asked: Asked; onClose: () => void }) {
  const [stack, setStack] = useState<Stack | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    stackOf(asked.pid, asked.id, stop.signal).then(
      (stack) => {
        setStack(stack);
        setError(null);
      },
      (error) => stop.signal.aborted || setError(messageOf(error)),
    );
    return () => stop.abort();
  }, [asked, attempt]);
  return (
    <Dialog title={`Stack of job ${asked.id}, ${asked.name}`} onClose={onClose}>
      <div class="stack" tabIndex={0} role="region" aria-label="Frames" aria-live="polite">
        {error !== null && <p class="bad">{error}</p>}
        {error === null && stack === null && <p>Asks the program.</p>}
        {error === null && stack !== null && <Frames stack={stack} />}
      </div>
      <p class="buttons">
        <button type="button" onClick={() => setAttempt(attempt + 1)}>
          Look again
        </button>
        <button type="button" onClick={close}>
          Close
        </button>
      </p>
    </Dialog>
  );
}

function Frames({ stack }: { stack: Stack }) {
  return (
    <>
      {stack.thread !== null && <p class="hint">{plain(stack.thread, 80)}, the innermost call first</p>}
      {stack.note !== null && <p>{plain(stack.note)}</p>}
      {stack.frames.length > 0 && (
        <ol>
          {stack.frames.map((frame, at) => (
            <li key={at}>
              <b>{plain(frame.function, 200)}</b>
              {frame.file !== null && (
                <code>
                  {plain(frame.file, 300)}
                  {frame.line !== null && `:${frame.line}`}
                </code>
              )}
            </li>
          ))}
        </ol>
      )}
    </>
  );
}

/** Asks before a job is cancelled. */
export function CancelDialog(props: { asked: Asked; onClose: () => void; onDone: (said: string) => void }) {
  const { asked, onClose, onDone } = props;
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const perform = async (event: Event) => {
    const dialog = (event.currentTarget as HTMLElement).closest("dialog");
    setBusy(true);
    try {
      await cancel(asked.pid, asked.id);
      onDone(`Job ${asked.id}, ${asked.name}, is cancelled.`);
      dialog?.close();
    } catch (error) {
      setError(messageOf(error));
      setBusy(false);
    }
  };
  return (
    <Dialog title={`Cancel job ${asked.id}, ${asked.name}?`} onClose={onClose}>
      <p>
        {CONSEQUENCES[asked.kind] ?? CONSEQUENCES["threads"]}
      </p>
      {error !== null && (
        <p class="bad" role="alert">
          {error}
        </p>
      )}
      <p class="buttons">
        <button type="button" onClick={close}>
          Keep it running
        </button>
        <button type="button" class="danger" disabled={busy} onClick={perform}>
          Cancel the job
        </button>
      </p>
    </Dialog>
  );
}
