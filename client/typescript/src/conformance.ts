// The conformance cases in TypeScript: `node dist/conformance.js write|check|repeat`, at
// TREERING_SERVER. See client/conformance/README.md.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { create, equals, type MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";

import { connect } from "./connection.js";
import { EventSchema, type RecordedEvent, RecordedEventSchema } from "./gen/treering/v1/event_pb.js";
import {
  AppendResponseSchema,
  Direction,
  EventStoreService,
  type ReadRequestSchema,
} from "./gen/treering/v1/event_store_service_pb.js";
import { FailureReason, VersionConflictSchema } from "./gen/treering/v1/failure_pb.js";
import { failureOf } from "./treering.js";

interface Fields {
  id: string;
  type: string;
  data?: { text?: string; base64?: string; times?: number };
  content_type?: string;
  tags?: string[];
  metadata?: Record<string, string>;
  time?: { seconds: string; nanos: number };
}

interface Expectation {
  expected_version?: string;
  expected_exists?: boolean;
}

interface Cases {
  events: { case: string; stream?: string; event: Fields; recorded?: Partial<Fields> }[];
  expectations: Expectation[];
  request_ids: string[];
  limits: string[];
  before_positions: string[];
}

const cases = JSON.parse(await readFile(new URL("../../conformance/cases.json", import.meta.url), "utf8")) as Cases;
const connection = connect(process.env.TREERING_SERVER!);
const store = createClient(EventStoreService, connection.transport);
const options = { timeoutMs: 60_000 };
const ALL = { case: "query" as const, value: { all: true } };

function message({ content_type, data, time, ...rest }: Fields) {
  return {
    ...rest,
    data: data && Buffer.concat([
      Buffer.from(data.text ?? ""),
      ...Array<Buffer>(data.times ?? 1).fill(Buffer.from(data.base64 ?? "", "base64")),
    ]),
    contentType: content_type,
    time: time && { seconds: BigInt(time.seconds), nanos: time.nanos },
  };
}

/** What is to be read. */
function expectedEvents(): RecordedEvent[] {
  const versions = new Map<string, bigint>();
  return cases.events.map(({ stream = "", event, recorded }, index) => {
    const version = stream ? (versions.get(stream) ?? 0n) + 1n : 0n;
    versions.set(stream, version);
    const place = { position: BigInt(index + 1), stream, version };
    return create(RecordedEventSchema, { ...message({ ...event, ...recorded }), ...place });
  });
}

const expected = expectedEvents();

async function appendAll(duplicate: boolean): Promise<void> {
  for (const [index, each] of cases.events.entries()) {
    const { position, stream, version } = expected[index]!;
    const events = [create(EventSchema, message(each.event))];
    const expectation = { case: "expectedVersion" as const, value: version - 1n };
    const request = stream ? { appends: [{ stream, expectation, events }] } : { events };
    const answer = await store.append(request, options);
    Object.assign(answer, { recordedAt: undefined, logId: "" });
    const versions = stream ? [{ stream, version }] : [];
    const wanted = create(AppendResponseSchema, { firstPosition: position, lastPosition: position, versions, duplicate });
    assert.ok(equals(AppendResponseSchema, answer, wanted), each.case);
  }
}

async function read(request: MessageInitShape<typeof ReadRequestSchema>) {
  const events: RecordedEvent[] = [];
  let [headPosition, streamVersion] = [0n, 0n];
  for await (const response of store.read(request, options)) {
    events.push(...response.events);
    ({ headPosition, streamVersion } = response);
  }
  return { events, headPosition, streamVersion };
}

async function check(): Promise<void> {
  const { events, headPosition } = await read({ source: ALL });
  assert.deepEqual([events.length, headPosition], [expected.length, BigInt(expected.length)]);
  for (const [index, found] of events.entries()) {
    const name = cases.events[index]!.case;
    assert.ok(found.recordedAt, name);
    found.recordedAt = undefined;
    assert.ok(equals(RecordedEventSchema, found, expected[index]!), name);
  }
  for (const stream of new Set(expected.map((each) => each.stream).filter(Boolean))) {
    const positions = expected.filter((each) => each.stream === stream).map((each) => each.position);
    const { events, streamVersion } = await read({ source: { case: "stream", value: stream } });
    assert.deepEqual(events.map((each) => each.position), positions, stream);
    assert.equal(streamVersion, BigInt(positions.length), stream);
  }
}

function refused({ expected_version, expected_exists }: Expectation) {
  const expectation =
    expected_version === undefined
      ? { case: "expectedExists" as const, value: expected_exists! }
      : { case: "expectedVersion" as const, value: BigInt(expected_version) };
  const stream = expected[0]!.stream;
  const events = [{ id: "0192f0c1-ffff-7000-8000-000000000000", type: "Refused" }];
  return { request: { appends: [{ stream, expectation, events }] }, expectation, stream };
}

async function checkNumbers(): Promise<void> {
  const first = refused(cases.expectations[0]!);
  const actualVersion = BigInt(expected.filter((each) => each.stream === first.stream).length);
  for (const each of cases.expectations) {
    const { request, expectation, stream } = refused(each);
    const error = await store.append(request, options).then(
      () => assert.fail("it is met"),
      (error: unknown) => error,
    );
    const detail = failureOf(error)?.detail;
    assert.ok(detail?.case === "versionConflict");
    const wanted = create(VersionConflictSchema, { stream, expectation, actualVersion });
    assert.ok(equals(VersionConflictSchema, detail.value, wanted), JSON.stringify(each));
  }

  const ids = cases.request_ids.map(BigInt);
  async function* requests() {
    yield { items: ids.map((requestId) => ({ requestId, append: first.request })) };
  }
  const found: bigint[] = [];
  for await (const { results } of store.appendMany(requests(), options)) {
    for (const { requestId, outcome } of results) {
      assert.ok(outcome.case === "failure" && outcome.value.reason === FailureReason.VERSION_CONFLICT);
      found.push(requestId);
    }
  }
  assert.deepEqual(found, ids);

  for (const limit of cases.limits.map(BigInt)) {
    const { events } = await read({ source: ALL, limit });
    const count = BigInt(expected.length);
    assert.equal(BigInt(events.length), limit < count ? limit : count);
  }
  for (const value of cases.before_positions.map(BigInt)) {
    const after = { case: "afterPosition" as const, value };
    const { events } = await read({ source: ALL, direction: Direction.BACKWARDS, after, limit: 1n });
    assert.deepEqual(events.map((each) => each.position), [BigInt(expected.length)]);
  }
}

const mode = process.argv[2];
if (mode === "write" || mode === "repeat") await appendAll(mode === "repeat");
else if (mode === "check") await check().then(checkNumbers);
else throw new Error("usage: conformance write|check|repeat");
console.log(`${mode}: ${expected.length} events`);
connection.close();
