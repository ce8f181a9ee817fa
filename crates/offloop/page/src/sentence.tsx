import { plain } from "./format.ts";

/** A sentence of advice, with what stands between backticks set as code. */
export function Sentence({ text }: { text: string }) {
  return (
    <>
      {plain(text)
        .split("`")
        .map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}
    </>
  );
}
