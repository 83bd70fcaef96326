// The helper against a server that does what the test says: for what a real one can't be made to do
// at a given moment.

import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";

import {
  type AppendRequest,
  EventStoreService,
  type SubscribeRequest,
  SubscribeResponseSchema,
} from "./gen/treering/v1/event_store_service_pb.js";
import { FailureReason, FailureSchema, VersionConflictSchema } from "./gen/treering/v1/failure_pb.js";
import { append, type Checkpoint, failureOf, follow, isConflict, startAt } from "./treering.js";

type Content = Parameters<typeof create<typeof SubscribeResponseSchema>>[1];

/** A store that answers appends, and subscriptions, one after the other as the script says. */
function scripted(script: { appends?: (ConnectError | null)[]; subscribes?: (Content | ConnectError)[][] }) {
  const appended: AppendRequest[] = [];
  const subscribed: SubscribeRequest[] = [];
  const transport = createRouterTransport(({ service }) => {
    service(EventStoreService, {
      append(request) {
        appended.push(request);
        const error = script.appends![appended.length - 1];
        if (error) throw error;
        return { lastPosition: 7n };
      },
      async *subscribe(request, { signal }) {
        subscribed.push(request);
        for (const each of script.subscribes![subscribed.length - 1]!) {
          if (each instanceof ConnectError) throw each;
          yield create(SubscribeResponseSchema, each);
        }
        // Nothing more is ever said.
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
    });
  });
  return { store: createClient(EventStoreService, transport), appended, subscribed };
}

const lost = new ConnectError("connection lost", Code.Unavailable);
const reset = new ConnectError("ECONNRESET", Code.Aborted);
const defect = new ConnectError("reference 17", Code.Internal);

function failed(code: Code, failure: Parameters<typeof create<typeof FailureSchema>>[1]) {
  const value = { code, ...failure } as { code: number };
  return new ConnectError("refused", code, undefined, [{ desc: FailureSchema, value }]);
}

const conflict = failed(Code.Aborted, {
  reason: FailureReason.VERSION_CONFLICT,
  detail: {
    case: "versionConflict",
    value: create(VersionConflictSchema, {
      stream: "order-1",
      expectation: { case: "expectedVersion", value: 0n },
      actualVersion: 2n ** 63n - 1n,
    }),
  },
});
const overloaded = failed(Code.ResourceExhausted, {
  reason: FailureReason.OVERLOADED,
  retryAfter: { seconds: 0n, nanos: 100_000_000 },
});
const diverged = failed(Code.FailedPrecondition, { reason: FailureReason.LOG_DIVERGED });

const ID = "018bcfe5-6800-7000-8000-000000000001";
const REQUEST = { appends: [{ stream: "order-1", events: [{ id: ID, type: "OrderPlaced" }] }] };

/** What a call throws. */
async function thrown(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => assert.fail("nothing was thrown"),
    (error: unknown) => error,
  );
}

test("the failure of an error has its reason and facts", async () => {
  const error = await thrown(append(scripted({ appends: [conflict] }).store, REQUEST, { timeoutMs: 1_000 }));
  const failure = failureOf(error)!;
  assert.equal(failure.reason, FailureReason.VERSION_CONFLICT);
  assert.ok(isConflict(error) && failure.detail.case === "versionConflict");
  assert.equal(failure.detail.value.actualVersion, 9223372036854775807n);
  assert.deepEqual(failure.detail.value.expectation, { case: "expectedVersion", value: 0n });
});

test("no failure where the server said none", () => {
  for (const error of [undefined, new Error("mine"), lost]) {
    assert.equal(failureOf(error), undefined);
    assert.equal(isConflict(error), false);
  }
});

test("an append is repeated with the same ids", async () => {
  const { store, appended } = scripted({ appends: [lost, overloaded, reset, defect, null] });
  const begin = performance.now();
  const { lastPosition } = await append(store, REQUEST, { timeoutMs: 5_000 });
  assert.equal(lastPosition, 7n);
  assert.ok(performance.now() - begin >= 100, "retry_after was passed over");
  assert.deepEqual(
    appended.map((each) => each.appends[0]!.events[0]!.id),
    Array(5).fill(ID),
  );
});

test("a conflict is not repeated, a defect a few times only", async () => {
  const first = scripted({ appends: [conflict] });
  await thrown(append(first.store, REQUEST, { timeoutMs: 1_000 }));
  assert.equal(first.appended.length, 1);
  const second = scripted({ appends: [defect, defect, defect, null] });
  await thrown(append(second.store, REQUEST, { timeoutMs: 5_000 }));
  assert.equal(second.appended.length, 3);
});

test("repeats end with the time", async () => {
  const { store, appended } = scripted({ appends: Array(100).fill(lost) });
  const begin = performance.now();
  const error = await thrown(append(store, REQUEST, { timeoutMs: 300 }));
  assert.equal((error as ConnectError).code, Code.Unavailable);
  assert.ok(performance.now() - begin < 1_000 && appended.length > 1);
});

test("an append without ids is not begun", async () => {
  const { store, appended } = scripted({});
  await thrown(append(store, { events: [{ type: "OrderPlaced" }] }, { timeoutMs: 1_000 }));
  assert.equal(appended.length, 0);
});

const started = (logId: string, afterPosition: bigint): Content => ({
  content: { case: "started", value: { logId, afterPosition, headPosition: 9n } as never },
});
const batch = (...positions: bigint[]): Content => ({
  content: { case: "events", value: { events: positions.map((position) => ({ position, id: `id${position}` })) } as never },
});
const heartbeat = (position: bigint, eventId: string): Content => ({
  content: { case: "heartbeat", value: { position, eventId } as never },
});
const newLog = (position: bigint, logId: string): Content => ({
  content: { case: "fellBehind", value: { position, logId } as never },
});

const SOURCE = { case: "stream" as const, value: "order-1" };
const at = (logId: string, position: bigint, eventId: string): Checkpoint => ({ logId, position, eventId });

test("a broken subscription goes on where it stopped", async () => {
  const { store, subscribed } = scripted({
    subscribes: [
      [lost], // before anything came
      [started("A", 4n), batch(5n, 6n), reset],
      [started("A", 6n), heartbeat(8n, "x"), newLog(8n, "B"), lost],
      [started("B", 8n), batch(9n), diverged],
    ],
  });
  const seen: bigint[] = [];
  const kept: Checkpoint[] = [];
  const start = { case: "afterTime" as const, value: { seconds: 1n, nanos: 0 } as never };
  const error = await thrown(
    (async () => {
      for await (const { response, checkpoint } of follow(store, { source: SOURCE, start })) {
        if (response.content.case === "events") seen.push(...response.content.value.events.map((e) => e.position));
        kept.push(checkpoint);
      }
    })(),
  );
  assert.equal(failureOf(error)?.reason, FailureReason.LOG_DIVERGED);
  assert.deepEqual(seen, [5n, 6n, 9n]);
  assert.deepEqual(kept, [
    at("A", 4n, ""),
    at("A", 6n, "id6"),
    at("A", 6n, "id6"),
    at("A", 8n, "x"),
    at("B", 8n, "x"),
    at("B", 8n, "x"),
    at("B", 9n, "id9"),
  ]);
  assert.equal(subscribed[1]!.start.case, "afterTime");
  const asked = subscribed.slice(2).map(({ start, expectedLogId, afterEventId }) => ({ start, expectedLogId, afterEventId }));
  assert.deepEqual(asked, [startAt(at("A", 6n, "id6")), startAt(at("B", 8n, "x"))]);
});

test("a silent subscription is begun again", async () => {
  const { store, subscribed } = scripted({ subscribes: [[started("A", 0n), batch(1n)], [diverged]] });
  const heartbeatInterval = { seconds: 0n, nanos: 50_000_000 };
  await thrown(
    (async () => {
      for await (const _ of follow(store, { source: SOURCE, heartbeatInterval }));
    })(),
  );
  assert.equal(subscribed.length, 2);
});

test("a subscription that is left is closed, and one that is stopped ends", async () => {
  const { store } = scripted({ subscribes: [[started("A", 0n)], [started("A", 0n)]] });
  for await (const _ of follow(store, { source: SOURCE })) break;
  const stop = new AbortController();
  for await (const _ of follow(store, { source: SOURCE }, { signal: stop.signal })) stop.abort();
});
