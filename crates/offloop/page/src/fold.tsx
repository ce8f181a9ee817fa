import type { ComponentChildren } from "preact";

interface FoldProps {
  name: ComponentChildren;
  open: boolean;
  onOpen: (open: boolean) => void;
  /** The id of what is shown or hidden. */
  body: string;
}

/** The number of cards of a kind that are open at first: they fit a screen or two. */
export const OPENED = innerWidth < 720 ? 1 : 3;

/** The name of a card, as the button that opens it. */
export function Fold({ name, open, onOpen, body }: FoldProps) {
  return (
    <button type="button" class="fold" aria-expanded={open} aria-controls={body} onClick={() => onOpen(!open)}>
      {name}
    </button>
  );
}
