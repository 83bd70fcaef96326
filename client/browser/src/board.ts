// A board that many pages write on and look at. Everything a page does with Treering is here:
// connect, append, read, follow.

import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { v7 as uuid } from "uuid";

import type { RecordedEvent } from "./gen/treering/v1/event_pb.js";
import { EventStoreService } from "./gen/treering/v1/event_store_service_pb.js";
import { append, type Checkpoint, type EventStore, failureOf, follow, startAt } from "./treering.js";

/** Milliseconds that a call may take, with all its repeats. */
const TIMEOUT = 30_000;

/** Somebody else has written meanwhile. */
export class Overtaken extends Error {
  constructor(readonly version: bigint) {
    super(`the board is at version ${version}`);
  }
}

/** A store behind the sidecar at an address as in "http://127.0.0.1:7465". */
export function connect(sidecar: string): EventStore {
  return createClient(EventStoreService, createConnectTransport({ baseUrl: sidecar, useBinaryFormat: true }));
}

/** Writes on a board that is still as it was at a version. Answers with the version it has then. */
export async function write(store: EventStore, board: string, text: string, version: bigint): Promise<bigint> {
  const data = new TextEncoder().encode(JSON.stringify({ text }));
  const events = [{ id: uuid(), type: "NoteWritten", data }];
  const expectation = { case: "expectedVersion" as const, value: version };
  try {
    const { versions } = await append(
      store,
      { appends: [{ stream: stream(board), expectation, events }] },
      { timeoutMs: TIMEOUT },
    );
    return versions[0]!.version;
  } catch (error) {
    const failure = failureOf(error);
    if (failure?.detail.case === "versionConflict") throw new Overtaken(failure.detail.value.actualVersion);
    throw error;
  }
}

/** What is on a board, its version, and where to go on from. */
export async function load(store: EventStore, board: string) {
  const notes: string[] = [];
  let version = 0n;
  let checkpoint: Checkpoint | undefined;
  const request = { source: { case: "stream" as const, value: stream(board) } };
  for await (const response of store.read(request, { timeoutMs: TIMEOUT })) {
    notes.push(...response.events.map(text));
    version = response.streamVersion;
    checkpoint ??= { logId: response.logId, position: response.headPosition, eventId: "" };
  }
  return { notes, version, checkpoint: checkpoint! };
}

/** Each note that is written after a checkpoint, until the signal is aborted. */
export async function* watch(
  store: EventStore,
  board: string,
  checkpoint: Checkpoint,
  signal?: AbortSignal,
): AsyncGenerator<{ note: string; version: bigint }> {
  const request = { source: { case: "stream" as const, value: stream(board) }, ...startAt(checkpoint) };
  // It goes on after a break, where it had stopped.
  for await (const { response } of follow(store, request, { signal })) {
    const { content } = response;
    for (const event of content.case === "events" ? content.value.events : []) {
      yield { note: text(event), version: event.version };
    }
  }
}

function stream(board: string): string {
  return `board-${board}`;
}

function text({ data }: RecordedEvent): string {
  return (JSON.parse(new TextDecoder().decode(data)) as { text: string }).text;
}
