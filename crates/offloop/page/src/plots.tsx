// Plots over time. The lines are uPlot's; the heat map is drawn here.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { count, clock, duration } from "./format.ts";
import { boundOf, type Moment, ROWS } from "./history.ts";
import { colour } from "./theme.ts";

export interface Line {
  title: string;
  /** The name of a colour of the style sheet. */
  colour: string;
  /** A second way to tell lines apart. */
  shape?: "line" | "area" | "bars" | "dashes";
  value: (moment: Moment) => number | null;
  /** A line of one value: a threshold. It does not stretch the axis. */
  limit?: boolean;
}

interface PlotProps {
  title: string;
  lines: Line[];
  moments: Moment[];
  /** The seconds that the axis covers. */
  span: number;
  format: (value: number) => string;
  /** The least upper end of the axis. */
  least: number;
  /** Changes with the colours. */
  theme: string;
}

const HEIGHT = 116;
const LEFT = 58;
const RIGHT = 26;
const FONT = "11px system-ui, sans-serif";

/** The axis of time, which is the same for all plots: it ends at the last moment. */
function range(moments: Moment[], span: number): [number, number] {
  const end = moments.at(-1)?.time ?? Date.now() / 1000;
  return [end - span, end];
}

function options(props: PlotProps, width: number, onMove: (at: number | null) => void): uPlot.Options {
  const axis = { stroke: colour("quiet"), font: FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    padding: [8, RIGHT, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "time" }, points: { size: 5 } },
    scales: {
      x: { time: true, range: (plot) => (plot.data[0].length === 0 ? [0, 1] : bounds.get(plot) ?? [0, 1]) },
      y: { range: (_, __, most) => [0, Math.max(props.least, (most ?? 0) * 1.1)] },
    },
    axes: [
      { ...axis, size: 22, gap: 6, space: 70, values: (_, times) => times.map((time) => clock(time)) },
      { ...axis, size: LEFT, gap: 4, space: 28, values: (_, values) => values.map((value) => props.format(value)) },
    ],
    series: [
      {},
      ...props.lines.map(
        ({ title, colour: name, shape, limit }): uPlot.Series => ({
          label: title,
          stroke: colour(name),
          width: shape === "dashes" ? 1 : 1.5,
          points: { show: false },
          spanGaps: false,
          auto: limit !== true,
          ...(shape === "dashes" && { dash: [4, 4] }),
          ...(shape === "area" && { fill: colour(`${name}-soft`) }),
          ...(shape === "bars" && {
            fill: colour(name),
            ...(uPlot.paths.bars && { paths: uPlot.paths.bars({ size: [0.9, 5, 2] }) }),
          }),
        }),
      ),
    ],
    hooks: { setCursor: [(plot) => onMove(plot.cursor.idx ?? null)] },
  };
}

const bounds = new WeakMap<uPlot, [number, number]>();

/** Lines over time, with their last values, or those under the pointer. */
export function Plot(props: PlotProps) {
  const { title, lines, moments, span, format, theme } = props;
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const width = useWidth(place);
  const [at, setAt] = useState<number | null>(null);
  const names = lines.map((line) => line.title).join();

  useEffect(() => {
    if (place.current === null || width === 0) return;
    plot.current = new uPlot(options(props, width, setAt), [[]], place.current);
    return () => {
      plot.current?.destroy();
      plot.current = null;
    };
  }, [width, theme, names]);

  useEffect(() => {
    if (plot.current === null) return;
    bounds.set(plot.current, range(moments, span));
    plot.current.setData([moments.map(({ time }) => time), ...lines.map((line) => moments.map(line.value))]);
  }, [moments, span, width, theme, names]);

  const shown = (at === null ? undefined : moments[at]) ?? moments.at(-1);
  const values = lines.map((line) => {
    const value = shown === undefined ? null : line.value(shown);
    return { ...line, text: value === null ? "–" : format(value) };
  });
  const summary = values.map((line) => `${line.title} ${line.text}`).join(", ");
  return (
    <figure class="plot">
      <figcaption>
        <span class="title">{title}</span>
        <span class="legend">
          {values.map((line) => (
            <span key={line.title} class={`key ${line.shape ?? "line"} ${line.colour}`}>
              {line.title} <b>{line.text}</b>
            </span>
          ))}
          {at !== null && shown !== undefined && <span class="when">{clock(shown.time)}</span>}
        </span>
      </figcaption>
      <div ref={place} class="canvas" role="img" aria-label={`${title} over time. Now: ${summary}`} />
    </figure>
  );
}

interface HeatProps {
  title: string;
  moments: Moment[];
  span: number;
  /** The counts of a moment, by row. */
  value: (moment: Moment) => Map<number, number> | undefined;
  summary: string;
  theme: string;
}

/** The rows that are shown: those that are used, and at least 100 µs to 1 s. */
function rowsOf(columns: Map<number, number>[]): [number, number] {
  const used = columns.flatMap((column) => [...column.keys()]);
  return [Math.min(6, ...used), Math.min(ROWS - 1, Math.max(20, ...used))];
}

/** The distribution of times over time: a column is a moment, a row the times up to its bound, and the colour the number of jobs. */
export function Heat({ title, moments, span, value, summary, theme }: HeatProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const width = useWidth(canvas);
  const [pointer, setPointer] = useState<[x: number, y: number] | null>(null);
  const columns = moments.map((moment) => value(moment) ?? new Map<number, number>());
  const [low, high] = rowsOf(columns);
  const [begin, end] = range(moments, span);
  const foot = 22;
  const head = 8;
  const rowHeight = (HEIGHT - foot - head) / (high - low + 1);
  const x = (time: number) => LEFT + ((time - begin) / (end - begin)) * (width - LEFT - RIGHT);
  const y = (row: number) => HEIGHT - foot - (row - low + 1) * rowHeight;

  useEffect(() => {
    const surface = canvas.current;
    const pen = surface?.getContext("2d");
    if (!surface || !pen || width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    surface.width = Math.round(width * ratio);
    surface.height = Math.round(HEIGHT * ratio);
    pen.scale(ratio, ratio);
    pen.font = FONT;
    pen.textBaseline = "middle";
    drawAxes(pen);
    const most = Math.log(1 + Math.max(1, ...columns.flatMap((column) => [...column.values()])));
    pen.fillStyle = colour("heat");
    columns.forEach((column, at) => {
      const moment = moments[at];
      const previous = moments[at - 1];
      if (moment === undefined || column.size === 0) return;
      // A column covers the time since the moment before.
      const right = x(moment.time);
      const left = Math.max(LEFT, previous === undefined ? right - 2 : x(previous.time));
      for (const [row, jobs] of column) {
        pen.globalAlpha = 0.2 + 0.8 * (Math.log(1 + jobs) / most);
        pen.fillRect(left, y(row), Math.max(1.5, right - left + 0.3), Math.max(1, rowHeight - 0.5));
      }
    });
    pen.globalAlpha = 1;
  }, [moments, width, theme, span]);

  function drawAxes(pen: CanvasRenderingContext2D): void {
    pen.fillStyle = colour("quiet");
    pen.strokeStyle = colour("grid");
    pen.textAlign = "right";
    // The powers of 1024 µs are close enough to milliseconds and seconds to be called so.
    for (const [row, text] of [[0, "1 µs"], [7, "128 µs"], [10, "1 ms"], [14, "16 ms"], [17, "131 ms"], [20, "1 s"], [24, "17 s"], [28, "4.5 min"]] as const) {
      if (row < low || row > high) continue;
      pen.beginPath();
      pen.moveTo(LEFT, y(row));
      pen.lineTo(width - RIGHT, y(row));
      pen.stroke();
      pen.fillText(text, LEFT - 4, Math.max(y(row), 7));
    }
    pen.textAlign = "center";
    const step = niceStep((span * 70) / Math.max(70, width - LEFT - RIGHT));
    for (let time = Math.ceil(begin / step) * step; time <= end; time += step) {
      pen.fillText(clock(time), x(time), HEIGHT - 9);
    }
  }

  const under = pointer === null ? null : readAt(...pointer);

  function readAt(px: number, py: number): string | null {
    const time = begin + ((px - LEFT) / (width - LEFT - RIGHT)) * (end - begin);
    const at = moments.findIndex((moment) => moment.time >= time);
    const row = low + Math.floor((HEIGHT - foot - py) / rowHeight);
    const moment = moments[at];
    if (moment === undefined || row < low || row > high) return null;
    const jobs = columns[at]?.get(row) ?? 0;
    const from = row === 0 ? "0" : duration(boundOf(row - 1));
    return `${clock(moment.time)}: ${count(jobs)} waited ${from} to ${duration(boundOf(row))}`;
  }

  return (
    <figure class="plot">
      <figcaption>
        <span class="title">{title}</span>
        <span class="legend">{under ?? summary}</span>
      </figcaption>
      <canvas
        ref={canvas}
        class="canvas"
        role="img"
        aria-label={`${title} as a heat map over time. ${summary}`}
        onPointerMove={(event) => setPointer([event.offsetX, event.offsetY])}
        onPointerLeave={() => setPointer(null)}
      />
    </figure>
  );
}

/** Returns the least step of a clock that is not below the seconds. */
function niceStep(seconds: number): number {
  return [5, 10, 15, 30, 60, 120, 300, 600].find((step) => step >= seconds) ?? 900;
}

/** Follows the width of an element. */
function useWidth(element: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (element.current === null) return;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry?.contentRect.width ?? 0)));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return width;
}
