import assert from "node:assert/strict";
import { test } from "node:test";
import { findings } from "./attention.ts";
import { readService } from "./document.ts";
import { bytes, duration, plain, rate, share, shortPath } from "./format.ts";
import { boundOf, History, keyOfLoop, keyOfPool } from "./history.ts";
import { EventParser } from "./stream.ts";

test("a duration has three digits that count, and a unit", () => {
  const shown = [0, 5e-7, 1.2e-5, 0.00099999, 0.0034, 0.1234, 0.99999, 12.34, 99.99, 200, 7500, 280_000].map(duration);
  assert.deepEqual(shown, [
    "0 s", "0.50 µs", "12.0 µs", "1.00 ms", "3.40 ms", "123 ms", "1.00 s", "12.3 s", "1 min 40 s", "3 min 20 s", "2 h 5 min",
    "3 d 5 h",
  ]);
  assert.equal(duration(null), "–");
});

test("sizes, rates and shares fit their columns", () => {
  assert.deepEqual([0, 512, 1536, 1023 * 1024, 3 * 2 ** 30].map(bytes), ["0 B", "512 B", "1.50 KiB", "1.00 MiB", "3.00 GiB"]);
  assert.deepEqual([0, 0.001, 0.4, 12.5, 1234].map(rate), ["0", "<0.01", "0.40", "12.5", "1,234"]);
  assert.deepEqual([0, 0.0001, 0.005, 0.34, 2.5].map(share), ["0 %", "<0.1 %", "0.5 %", "34 %", "250 %"]);
});

test("a long path is cut where it matters least", () => {
  assert.equal(shortPath("app/views.py"), "app/views.py");
  assert.equal(shortPath("/usr/lib/python3.13/site-packages/shop/views/orders.py"), "…/shop/views/orders.py");
});

test("a name that a program has chosen cannot hide what it is", () => {
  assert.equal(plain("a\u202eb\u0000c"), "a\\u202eb\\u0000c");
  assert.equal(plain("x".repeat(500)).length, 401);
});

test("an event is read however it is cut, and comments are left out", () => {
  const text = ": hello\n\nevent: service\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\ndata:2\n\n";
  for (let size = 1; size <= text.length; size += 1) {
    const parser = new EventParser();
    const events: string[] = [];
    for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
    assert.deepEqual(events, ['{"a":\n1}', "2"]);
  }
});

/** Returns a service of one process, with one pool and one loop. */
function serviceAt(time: number, pool: object, loop: object) {
  const process = { pid: 7, started: 1 };
  const pools = [{ id: 1, name: "p", ...pool }];
  const loops = [{ id: 2, name: "l", threshold: 0.1, ...loop }];
  return readService({ version: 1, processes: [{ time, process, pools, loops, deaths: [{ time: 99, pid: 3, how: "killed" }] }] });
}

test("what is missing or has another type has its default", () => {
  const { processes } = readService({ processes: [{ pools: [{ queued: "many", workers: 3 }], process: { pid: 1 } }, 5] });
  assert.equal(processes.length, 2);
  assert.equal(processes[0]?.pools[0]?.queued, 0);
  assert.deepEqual(processes[0]?.pools[0]?.workers, []);
  assert.equal(processes[1]?.process.rss, null);
  assert.deepEqual(readService(null), { version: 0, processes: [], missing: [] });
});

test("a moment has what was added since the one before, and a gap separates them", () => {
  const history = new History();
  const add = (time: number, waits: unknown, late: unknown) => {
    const service = serviceAt(time, { queue_wait: { buckets: waits } }, { lateness: { buckets: late }, late_now: 0.001 });
    history.add(service);
    return service;
  };
  const { process, pools, loops } = add(1, [[0.001, 5]], [[0.5, 1]]).processes[0]!;
  const pool = keyOfPool(process, pools[0]!);
  const loop = keyOfLoop(process, loops[0]!);
  add(2, [[0.001, 7], [null, 1]], [[0.25, 1], [0.5, 1]]);
  history.addGap();
  history.addGap();
  add(9, [[0.001, 9]], [[0.25, 1], [0.5, 2]]);
  add(10, [[0.001, 10]], [[0.25, 1], [0.5, 3]]);
  const [first, second, gap, fourth, fifth] = history.moments;
  assert.deepEqual([...first!.pools.get(pool)!.waits], []);
  assert.deepEqual([...second!.pools.get(pool)!.waits], [[10, 2], [30, 1]]);
  assert.ok(boundOf(10) >= 0.001 && boundOf(9) < 0.001);
  assert.equal(second!.loops.get(loop)!.late, 0.25);
  assert.equal(gap!.pools.size, 0);
  assert.equal(fourth!.loops.get(loop)!.late, 0.001);
  assert.equal(fifth!.loops.get(loop)!.late, 0.5);
  assert.equal(history.moments.length, 5);
});

test("a clock that was set back begins the plots anew", () => {
  const history = new History();
  for (const time of [100, 101, 50]) history.add(serviceAt(time, {}, {}));
  assert.deepEqual(history.moments.map(({ time }) => time), [50]);
});

test("what needs attention is named, blocking and the lack of cores apart", () => {
  const history = new History();
  const kinds = (service: ReturnType<typeof serviceAt>) => {
    history.add(service);
    return findings(service, history).map(({ kind, title }) => `${kind}: ${title}`);
  };
  assert.deepEqual(kinds(serviceAt(1000, {}, { stalls: 1, starved: 1 })), []);
  assert.deepEqual(kinds(serviceAt(1001, { queued: 4, capacity: 4 }, { stalls: 2, stalled: 1, starved: 2 })), [
    "blocked: Loop l was blocked",
    "starved: Loop l was late because it had no core",
    "queue: The queue of p is full",
  ]);
  assert.deepEqual(kinds(serviceAt(1061.5, { queued: 4, oldest_queued: 9 }, { stalls: 2, starved: 2, late_now: 3 })), [
    "blocked: Loop l stands still",
    "queue: Jobs wait long for p",
  ]);
  assert.deepEqual(kinds(serviceAt(1125, {}, { stalls: 2, starved: 2 })), []);
});
