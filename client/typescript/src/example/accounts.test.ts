import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomUUID as uuid } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { createClient, type Interceptor } from "@connectrpc/connect";

import { EventStoreService } from "../gen/treering/v1/event_store_service_pb.js";
import { FailureReason } from "../gen/treering/v1/failure_pb.js";
import { connect } from "../connection.js";
import { append } from "../treering.js";
import { Accounts, Refused } from "./accounts.js";
import { type Balances, followBalances, loadBalances } from "./balances.js";
import { depositAll } from "./pipeline.js";

const address = process.env.TREERING_SERVER;
if (!address) throw new Error("TREERING_SERVER names no server");

/** What is sent, as an interceptor sees it. */
const watch = { unanswered: 0, most: 0, headers: new Headers(), timeouts: [] as unknown[] };
const watching: Interceptor = (next) => async (request) => {
  watch.headers = request.header;
  if (request.method.name !== "AppendMany" || !request.stream) return next(request);
  const count = async function* <T>(messages: AsyncIterable<T>, sign: number) {
    for await (const message of messages) {
      const { items, results } = message as { items?: unknown[]; results?: unknown[] };
      watch.unanswered += sign * (items ?? results)!.length;
      watch.most = Math.max(watch.most, watch.unanswered);
      yield message;
    }
  };
  const response = await next({ ...request, message: count(request.message, 1) } as typeof request);
  return { ...response, message: count(response.message as AsyncIterable<never>, -1) } as typeof response;
};

const connection = connect(address, [watching]);
after(() => connection.close());
const accounts = new Accounts(connection.transport);
const store = createClient(EventStoreService, connection.transport);

/** Opens an account with some money in it. */
async function opened(cents = 0): Promise<string> {
  const id = uuid();
  await accounts.open(id, "Anna");
  if (cents > 0) await accounts.deposit(id, cents);
  return id;
}

/** How many of the calls were refused with such a message; any other error fails the test. */
async function refusals(calls: Promise<unknown>[], message: RegExp): Promise<number> {
  let count = 0;
  for (const result of await Promise.allSettled(calls)) {
    if (result.status === "fulfilled") continue;
    assert.ok(result.reason instanceof Refused, result.reason);
    assert.match(result.reason.message, message);
    count++;
  }
  return count;
}

test("an account is opened once", async () => {
  const id = await opened();
  await assert.rejects(accounts.open(id, "Bert"), /exists already, at version 1$/);
});

test("what is refused says why", async () => {
  await assert.rejects(accounts.open("x".repeat(300), "Anna"), /appends\[0\]\.stream.*\(limit 255\)/);
  await assert.rejects(accounts.deposit(uuid(), 1), Refused);
});

test("withdrawals at once never take more than there is", async () => {
  const id = await opened(500);
  const calls = Array.from({ length: 8 }, () => accounts.withdraw(id, 100));
  assert.equal(await refusals(calls, /not enough money/), 3);
  assert.equal(await accounts.balance(id), 0);
});

test("a name is given once, however many claim it", async () => {
  const name = `Zoë ${uuid()}`;
  const ids = await Promise.all(Array.from({ length: 6 }, () => opened()));
  assert.equal(await refusals(ids.map((id) => accounts.claimName(id, name)), /another account/), 5);
  await assert.rejects(accounts.claimName(uuid(), `${name}?`), /no account/);
});

test("a transfer moves all or nothing", async () => {
  const [from, to] = [await opened(1_000), await opened()];
  await accounts.transfer(from, to, 300);
  await assert.rejects(accounts.transfer(from, to, 701), /not enough money/);
  await assert.rejects(accounts.transfer(from, uuid(), 1), /no account/);
  assert.deepEqual([await accounts.balance(from), await accounts.balance(to)], [700, 300]);
  const [second, first] = await accounts.latest(2, from, to);
  assert.equal(second!.position, first!.position + 1n);
  assert.deepEqual(second!.recordedAt, first!.recordedAt);
});

test("ten thousand events are pipelined", async (t) => {
  const id = await opened();
  const amounts = Array.from({ length: 10_000 }, (_, i) => i);
  const begin = performance.now();
  const refused = await depositAll(accounts, id, amounts, { inFlight: 500 });
  t.diagnostic(`10000 appends in ${Math.round(performance.now() - begin)} ms, at most ${watch.most} unanswered`);
  assert.equal(refused.size, 0);
  assert.equal(await accounts.balance(id), (10_000 * 9_999) / 2);
  assert.ok(watch.most <= 500 && watch.most > 1);
});

test("refused appends of a pipeline are told", async () => {
  const refused = await depositAll(accounts, uuid(), [1, 2]);
  assert.deepEqual(
    [...refused].map(([index, { reason }]) => [index, reason]),
    [0, 1].map((index) => [index, FailureReason.VERSION_CONFLICT]),
  );
});

test("reads backwards with a query", async () => {
  const [anna, bert, other] = [await opened(100), await opened(200), await opened(300)];
  await accounts.withdraw(anna, 1);
  await accounts.withdraw(other, 1);
  const found = (await accounts.latest(2, anna, bert)).map(
    ({ stream, type, data }) => `${stream} ${type} ${new TextDecoder().decode(data)}`,
  );
  assert.deepEqual(found, [
    `account-${anna} MoneyWithdrawn {"amount":1}`,
    `account-${bert} MoneyDeposited {"amount":200}`,
  ]);
});

test("reads as of a time", async () => {
  const id = await opened(100);
  const then = (await accounts.latest(1, id))[0]!.recordedAt!;
  await sleep(2);
  await accounts.withdraw(id, 40);
  assert.equal(await accounts.balanceAt(id, then), 100);
  assert.equal(await accounts.balanceAt(id, new Date(timestampMs(then) - 60_000)), 0);
  assert.equal(await accounts.balanceAt(id, new Date(Date.now() + 60_000)), 60);
});

test("calls have a deadline and a trace", async () => {
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const id = uuid();
  const traced = new Accounts(connection.transport, traceparent);
  await traced.open(id, "Anna");
  await traced.deposit(id, 1);
  assert.equal(watch.headers.get("traceparent"), traceparent);
  assert.match(watch.headers.get("grpc-timeout") ?? "", /^\d{1,8}[mun]$/);
  assert.equal((await accounts.latest(1, id))[0]!.metadata.traceparent, traceparent);
});

test("the same append again is found by its ids", async () => {
  const request = { events: [{ id: uuid(), type: "Happened" }] };
  const first = await append(store, request, { timeoutMs: 10_000 });
  const again = await append(store, request, { timeoutMs: 10_000 });
  assert.deepEqual([first.duplicate, again.duplicate], [false, true]);
  assert.equal(first.lastPosition, again.lastPosition);
});

// The read model is stopped and started, and the server restarted, while money moves.
const restart = process.env.TREERING_RESTART;
const skip = restart ? false : "TREERING_RESTART names no command that restarts the server";
test("a subscription resumes without loss or repetition", { skip, timeout: 60_000 }, async (t) => {
  const id = await opened(1);
  const folder = await mkdtemp(join(tmpdir(), "balances"));
  const path = join(folder, "balances.json");
  try {
    const first = new AbortController(); // Up to now, and then no more.
    await followBalances(store, path, { signal: first.signal, caughtUp: () => first.abort() });
    let stored: Balances = await loadBalances(path);
    assert.equal(stored.cents[id], 1);
    assert.ok(stored.checkpoint.position > 0n && stored.checkpoint.logId);

    await accounts.deposit(id, 2); // Nobody follows.
    const second = new AbortController();
    const following = followBalances(store, path, { signal: second.signal });
    const writing = (async () => {
      for (let i = 0; i < 60; i++) {
        await accounts.deposit(id, i * 1_000);
        await sleep(20);
      }
    })();
    await sleep(300);
    await promisify(execFile)("sh", ["-c", restart!]);
    await writing;

    const want = 3 + ((60 * 59) / 2) * 1_000;
    assert.equal(await accounts.balance(id), want);
    const moved = await accounts.latest(1_000, id);
    while (stored.checkpoint.position < moved[0]!.position) {
      await sleep(20);
      stored = await loadBalances(path);
    }
    second.abort();
    await following;
    assert.equal(stored.cents[id], want);
    assert.equal(moved.length, 62);
    let count = 0;
    const source = { case: "query" as const, value: { items: [{ categories: ["account"] }] } };
    const until = { case: "untilPosition" as const, value: stored.checkpoint.position };
    for await (const { events } of store.read({ source, until })) count += events.length;
    assert.equal(stored.events, count);
    t.diagnostic(`${count} events, each once, over a restart of the server`);
  } finally {
    await rm(folder, { recursive: true });
  }
});
