// Measures a cell of Emmett, as cell.py does for others: reads an order from standard input, says
// `begin` and `end` and waits for an answer, and writes the result as the last line. What the
// workloads are is said in workloads/*.py; this has to do the same.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../build/peers/package.json", import.meta.url));
const { dumbo } = require("@event-driven-io/dumbo");
const { getPostgreSQLEventStore, readMessagesBatch } = require("@event-driven-io/emmett-postgresql");
const pg = require("pg");

const CONNECTIONS = 32;
const PAGE = 1000;
const SIZE = 256;
const EVENTS_PER_STREAM = 10;
const AT_A_TIME = 5;
const FILLED_AT_ONCE = 8;
const ONE_IN = 1000;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const hear = async () => (await lines.next()).value;
const say = async (word) => {
  console.log(word);
  await hear();
};

const order = JSON.parse(await hear());
const given = order.arguments;
const latencies = [];
let pool, emmett, store;

function open() {
  pool = new pg.Pool({ connectionString: order.place.database, max: CONNECTIONS });
  emmett = dumbo({ connectionString: order.place.database, pool });
  const connectionOptions = { dumbo: emmett };
  store = getPostgreSQLEventStore(order.place.database, { connectionOptions });
  return store.schema.migrate();
}

function newEvent(stream, version, type = "PaymentPlaced") {
  const length = JSON.stringify({ of: stream, nth: version, note: "" }).length + 5;
  return { type, data: { of: stream, nth: version, note: "x".repeat(SIZE - length) } };
}

const filledStream = (number) => `${number % ONE_IN ? "account" : "rare"}-${number}`;

async function append(stream, version, events) {
  // 0n, since its constant for a stream that does not exist is not checked.
  await store.appendToStream(stream, events, { expectedStreamVersion: BigInt(version) });
}

// What is done inside is measured.
async function measuring(work) {
  await say("begin");
  const cpu = process.cpuUsage();
  const began = performance.now();
  const operations = await work(began);
  const seconds = (performance.now() - began) / 1000;
  const used = process.cpuUsage(cpu);
  await say("end");
  const client_cpu = (used.user + used.system) / 1e6;
  return { operations, seconds, client_cpu, quantiles: quantiles(), extra: {} };
}

function quantiles() {
  if (latencies.length < 2) return {};
  const sorted = latencies.toSorted((one, other) => one - other);
  const at = (part) => sorted[Math.floor(part * (sorted.length - 1))];
  const max = sorted.at(-1);
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), "p99.9": at(0.999), max };
}

async function timed(call) {
  const began = performance.now();
  const answer = await call();
  latencies.push(performance.now() - began);
  return answer;
}

async function start() {
  return measuring(async () => {
    for (;;) {
      try {
        await open();
        break;
      } catch {
        await pool.end();
      }
    }
    await append("first", 0, [newEvent("first", 1)]);
    return 1;
  });
}

async function appends() {
  const { in_flight, events, seconds } = given;
  const streams = Array.from(
    { length: in_flight },
    (_, number) => `load-${in_flight}x${events}x${number}`,
  );
  const versions = new Map(streams.map((stream) => [stream, 0]));
  const next = async (stream) => {
    const version = versions.get(stream);
    const batch = Array.from({ length: events }, (_, number) =>
      newEvent(stream, version + number + 1),
    );
    await timed(() => append(stream, version, batch));
    versions.set(stream, version + events);
  };
  await open();
  await Promise.all(streams.map(next));
  latencies.length = 0;
  const result = await measuring(async (began) => {
    const end = began + seconds * 1000;
    const caller = async (stream) => {
      while (performance.now() < end) await next(stream);
    };
    await Promise.all(streams.map(caller));
    return latencies.length * events;
  });
  await check(versions);
  return result;
}

// Positions rise, versions are dense, and every acknowledged event is there.
async function check(acknowledged) {
  const { rows } = await pool.query(
    "SELECT stream_position, message_data FROM emt_messages ORDER BY global_position",
  );
  const counts = new Map();
  for (const { stream_position, message_data } of rows) {
    const count = (counts.get(message_data.of) ?? 0) + 1;
    counts.set(message_data.of, count);
    if (message_data.nth !== count || Number(stream_position) !== count)
      throw new Error(`${message_data.of} has version ${stream_position} where ${count} was due`);
  }
  for (const [stream, count] of acknowledged)
    if (counts.get(stream) !== count)
      throw new Error(`${count} of ${stream} were acknowledged, ${counts.get(stream)} are there`);
}

async function fill() {
  await open();
  const end = given.first + given.streams;
  let number = given.first;
  const filler = async () => {
    while (number < end) {
      const mine = number++;
      const stream = filledStream(mine);
      for (let version = 0; version < EVENTS_PER_STREAM; version += AT_A_TIME) {
        const batch = Array.from({ length: AT_A_TIME }, (_, later) =>
          newEvent(stream, version + later + 1),
        );
        await append(stream, version, batch);
      }
    }
  };
  return measuring(async () => {
    await Promise.all(Array.from({ length: FILLED_AT_ONCE }, filler));
    return given.streams * EVENTS_PER_STREAM;
  });
}

// By what its consumers read with.
async function readLog() {
  let count = 0;
  for (let after = 0n; ; ) {
    const page = await readMessagesBatch(emmett.execute, { after, batchSize: PAGE });
    count += page.messages.length;
    if (!page.areMessagesLeft) return count;
    after = page.currentGlobalPosition;
  }
}

async function reads() {
  await open();
  await readLog();
  return measuring(async (began) => {
    while (performance.now() < began + given.seconds * 1000) {
      const count = await timed(readLog);
      if (count !== given.events) throw new Error(`a read gave ${count} of ${given.events} events`);
    }
    return latencies.length * given.events;
  });
}

async function loads() {
  const load = async () => {
    const stream = filledStream(Math.floor(Math.random() * given.streams));
    const { events } = await timed(() => store.readStream(stream));
    if (events.length !== EVENTS_PER_STREAM)
      throw new Error(`loading ${stream} gave ${events.length} events`);
  };
  const callers = (work) => Promise.all(Array.from({ length: given.in_flight }, work));
  await open();
  await callers(load);
  latencies.length = 0;
  return measuring(async (began) => {
    const end = began + given.seconds * 1000;
    await callers(async () => {
      while (performance.now() < end) await load();
    });
    return latencies.length;
  });
}

const programs = { start, appends, fill, reads, loads };
try {
  console.log(JSON.stringify(await programs[order.program]()));
  process.exit(0);
} catch (error) {
  // What went wrong stands last.
  console.error(`${error.stack}\n${error.message}`);
  process.exit(1);
}
