// Numbers and texts for people: three digits that count, and a unit.

/** What stands for a value that is not known. */
export const UNKNOWN = "–";

/** Writes a number with about three digits that count, and no more than two decimals. */
function digits(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}

/** Formats a duration: `120 µs`, `3.40 ms`, `12.5 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds: number | null): string {
  if (seconds === null) return UNKNOWN;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.9995e-3) return `${digits(seconds * 1e6)} µs`;
  if (size < 0.9995) return `${digits(seconds * 1e3)} ms`;
  if (size < 99.95) return `${digits(seconds)} s`;
  return longer(Math.round(seconds));
}

function longer(seconds: number): string {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return pair(minutes, "min", seconds % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return pair(hours, "h", minutes % 60, "min");
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

const pair = (large: number, unit: string, small: number, smaller: string) =>
  small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${smaller}`;

/** Formats a time that has passed, in whole units: `now`, `4 s ago`, `3 min ago`. */
export function ago(seconds: number): string {
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** Formats a size: `512 B`, `1.50 KiB`, `64.0 MiB`. */
export function bytes(size: number | null): string {
  if (size === null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = size;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : digits(value)} ${units[unit]}`;
}

const grouped = new Intl.NumberFormat("en", { useGrouping: true, maximumFractionDigits: 0 });

/** Formats a count: `1,234`. */
export const count = (value: number | null): string => (value === null ? UNKNOWN : grouped.format(value));

/** Formats a rate: `0`, `0.40`, `12.5`, `1,234`, without its unit. */
export function rate(value: number | null): string {
  if (value === null) return UNKNOWN;
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  return value >= 100 ? grouped.format(value) : digits(value);
}

/** Formats a share: `0 %`, `0.5 %`, `34 %`, `250 %`. */
export function share(value: number | null): string {
  if (value === null) return UNKNOWN;
  const percent = value * 100;
  if (percent === 0) return "0 %";
  if (percent < 0.1) return "<0.1 %";
  return `${percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

/** Formats a number of cores: `0.25`. */
export const cores = (value: number | null): string => (value === null ? UNKNOWN : value.toFixed(2));

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Formats a time of day: `14:03:59`. */
export const clock = (seconds: number): string => time.format(seconds * 1000);

const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** Formats a time with its date, for hints. */
export const date = (seconds: number): string => moment.format(seconds * 1000);

/** Returns the word in the number that fits the count: `1 job`, `2 jobs`. */
export const plural = (value: number, one: string, many = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : many}`;

/** Shortens the path of a file to its last parts: `…/shop/views/orders.py`. */
export function shortPath(path: string): string {
  const parts = path.split("/");
  return path.length > 40 && parts.length > 4 ? `…/${parts.slice(-3).join("/")}` : path;
}

/** Makes a label of a word of the document: `run_timeout` is `run timeout`. */
export const words = (label: string): string => plain(label.replaceAll("_", " "), 60);

// Control characters, and those that change the direction of what follows: they could make a name look like another.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Makes a text that a program has chosen fit to be shown: without what cannot be seen, and not too long. */
export function plain(text: string, most = 400): string {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(INVISIBLE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
