import type { ComponentChildren } from "preact";

/** A number below its title. Belongs into a `dl` of the class `facts`. */
export function Fact(props: { title: string; kind?: string; children: ComponentChildren }) {
  return (
    <div class={props.kind}>
      <dt>{props.title}</dt>
      <dd>{props.children}</dd>
    </div>
  );
}
