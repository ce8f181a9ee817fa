// Requests to the program that serves this page. All addresses are relative, so that it can be mounted anywhere.

import { readStack, type Stack } from "./document.ts";

/** An answer other than success, with what the program says about it. */
export class Refused extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  /** Set if asking again is of no use: the token is wrong, or access is not allowed. */
  get isFinal(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

/** The token that this page was opened with. Each of its requests needs it too. */
const token = () => new URLSearchParams(location.search).get("token");

async function request(path: string, options: RequestInit): Promise<Response> {
  const headers = new Headers(options.headers);
  const given = token();
  if (given !== null) headers.set("Authorization", `Bearer ${given}`);
  const answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  if (answer.ok) return answer;
  let message = `the program answered with status ${answer.status}`;
  try {
    const { error } = await answer.json();
    if (typeof error === "string") message = error;
  } catch {
    // Not JSON: something between this page and the program has answered. The status says what there is to say.
  }
  throw new Refused(answer.status, message);
}

export const get = (path: string, signal: AbortSignal): Promise<Response> => request(path, { signal });

const job = (pid: number, id: number) => `jobs/${pid}/${id}`;

/** Asks for the stack of a job that runs. */
export async function stackOf(pid: number, id: number, signal: AbortSignal): Promise<Stack> {
  const answer = await get(`${job(pid, id)}/stack`, signal);
  return readStack(await answer.json());
}

/** Cancels a job that runs. */
export async function cancel(pid: number, id: number): Promise<void> {
  await request(`${job(pid, id)}/cancel`, { method: "POST", headers: { "X-Offloop": "1" } });
}
