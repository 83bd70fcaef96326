// What must hold through the sidecar, with nothing but what Node and browsers both have: the tests
// run it in each.

import { Code, ConnectError } from "@connectrpc/connect";

import { load, Overtaken, watch, write } from "./board.js";
import { FailureReason } from "./gen/treering/v1/failure_pb.js";
import { append, type EventStore, failureOf } from "./treering.js";

export interface Surroundings {
  store: EventStore;
  /** Restarts the server, and returns once it answers again. */
  restart(): Promise<void>;
}

export const checks: Record<string, (surroundings: Surroundings) => Promise<void>> = {
  async "what is written is read, with bigint positions"({ store }) {
    const board = crypto.randomUUID();
    equal(await write(store, board, "Zoë 🌲", 0n), 1n);
    equal(await write(store, board, "two", 1n), 2n);
    const { notes, version, checkpoint } = await load(store, board);
    equal(notes.join(), "Zoë 🌲,two");
    equal(version, 2n);
    equal(typeof checkpoint.position, "bigint");
  },

  async "the largest integers go there and back"({ store }) {
    const stream = `board-${crypto.randomUUID()}`;
    const expectation = { case: "expectedVersion" as const, value: 2n ** 63n - 1n };
    const events = [{ id: crypto.randomUUID(), type: "NoteWritten" }];
    const conflict = failureOf(
      await thrown(append(store, { appends: [{ stream, expectation, events }] }, { timeoutMs: 10_000 })),
    );
    if (conflict?.detail.case !== "versionConflict") throw new Error(`no conflict: ${conflict}`);
    equal(conflict.detail.value.expectation.value, 9223372036854775807n);
  },

  async "an error has the server's Failure, of a call and of a stream"({ store }) {
    const board = crypto.randomUUID();
    await write(store, board, "one", 0n);
    const error = await thrown(write(store, board, "other", 0n));
    if (!(error instanceof Overtaken)) throw error;
    equal(error.version, 1n);

    const refused = failureOf(await thrown(load(store, "x".repeat(300))));
    equal(refused?.reason, FailureReason.LIMIT_EXCEEDED);
    if (refused?.detail.case !== "invalidRequest") throw new Error(`no violation: ${refused}`);
    equal(refused.detail.value.violations[0]!.limit, 255n);

    const unheard = await thrown(
      watch(store, board, { logId: "", position: 2n ** 62n, eventId: "" }).next(),
    );
    equal(failureOf(unheard)?.reason, FailureReason.POSITION_AHEAD_OF_LOG);
  },

  async "a deadline is passed on"({ store }) {
    const request = { source: { case: "stream" as const, value: "board-0" } };
    const error = await thrown(
      (async () => {
        for await (const _ of store.subscribe(request, { timeoutMs: 300 }));
      })(),
    );
    equal(error instanceof ConnectError && error.code, Code.DeadlineExceeded);
  },

  async "a stream stays open, and brings what is written at once"({ store }) {
    const board = crypto.randomUUID();
    const { checkpoint } = await load(store, board);
    const notes = watch(store, board, checkpoint);
    // One after the other, so that none can have waited for the next.
    for (let i = 0; i < 50; i++) {
      await write(store, board, `${i}`, BigInt(i));
      equal((await notes.next()).value?.note, `${i}`);
    }
    await notes.return(undefined);
  },

  async "a stream that is broken goes on, without loss or repetition"({ store, restart }) {
    const board = crypto.randomUUID();
    const { checkpoint } = await load(store, board);
    const notes = watch(store, board, checkpoint);
    await write(store, board, "0", 0n);
    equal((await notes.next()).value?.note, "0");
    const writeOn = async () => {
      for (let i = 1; i < 40; i++) await write(store, board, `${i}`, BigInt(i));
    };
    const readOn = async () => {
      for (let i = 1; i < 40; i++) equal((await notes.next()).value?.note, `${i}`);
    };
    await Promise.all([restart(), writeOn(), readOn()]);
    await write(store, board, "40", 40n);
    equal((await notes.next()).value?.note, "40");
    await notes.return(undefined);
  },
};

function equal(actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new Error(`${actual} instead of ${expected}`);
}

/** What a call throws. */
async function thrown(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => new Error("nothing was thrown"),
    (error: unknown) => error,
  );
}
