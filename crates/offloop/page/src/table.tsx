import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { plural } from "./format.ts";

export interface Column {
  title: string;
  /** Numbers stand on the right, so that their digits stand below each other. */
  numeric?: boolean;
}

export interface Row {
  key: string | number;
  /** One for each column. */
  cells: ComponentChildren[];
  /** Stands below the row, over its whole width. */
  note?: ComponentChildren;
}

interface TableProps {
  caption: string;
  columns: Column[];
  rows: Row[];
  /** As many rows are shown at first. */
  most?: number;
  /** Set if the table is too wide for a phone: there each row becomes a block, with the titles beside the values. */
  stacks?: boolean;
}

/**
 * A table, of which long ones are cut. The roles are written out, because browsers forget those of a table whose rows are
 * shown as blocks.
 */
export function Table({ caption, columns, rows, most = 12, stacks = false }: TableProps) {
  const [all, setAll] = useState(false);
  const shown = all ? rows : rows.slice(0, most);
  return (
    <div class={stacks ? "table stacks" : "table"}>
      <table role="table" aria-label={caption}>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ title, numeric }) => (
              <th key={title} role="columnheader" scope="col" class={numeric ? "number" : undefined}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {shown.flatMap(({ key, cells, note }) => [
            <tr key={key} role="row" class={note ? "noted" : undefined}>
              {columns.map(({ title, numeric }, at) => (
                <td key={title} role="cell" data-title={title} class={numeric ? "number" : undefined}>
                  {cells[at]}
                </td>
              ))}
            </tr>,
            note && (
              <tr key={`${key}/note`} role="row" class="note">
                <td role="cell" colSpan={columns.length}>
                  {note}
                </td>
              </tr>
            ),
          ])}
        </tbody>
      </table>
      {rows.length > most && (
        <button type="button" class="more" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Show fewer" : `Show all: ${plural(rows.length, "row")}`}
        </button>
      )}
    </div>
  );
}
