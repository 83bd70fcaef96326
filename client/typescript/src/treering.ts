// What every caller of Treering in TypeScript would write: what a failed call means, an append that
// is repeated safely, a subscription that goes on after any break. It is one file, to copy, that
// runs in Node and in a browser; everything else is in the stubs, in gen/treering/v1.

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, type Client } from "@connectrpc/connect";

import { FailureReason, FailureSchema, type Failure } from "./gen/treering/v1/failure_pb.js";
import {
  type AppendRequestSchema,
  type AppendResponse,
  type EventStoreService,
  SubscribeRequestSchema,
  type SubscribeResponse,
} from "./gen/treering/v1/event_store_service_pb.js";

export type EventStore = Client<typeof EventStoreService>;

/** What the server says about a failed call: the reason and the facts. Undefined if it said
 * nothing, as when it could not be reached. */
export function failureOf(error: unknown): Failure | undefined {
  return error instanceof ConnectError ? error.findDetails(FailureSchema)[0] : undefined;
}

/** Whether something came between a decision and its append. Nothing was written: load again,
 * decide again. */
export function isConflict(error: unknown): boolean {
  const reason = failureOf(error)?.reason;
  return reason === FailureReason.VERSION_CONFLICT || reason === FailureReason.CONDITION_FAILED;
}

export interface CallOptions {
  /** Milliseconds for everything, with all repeats. */
  timeoutMs: number;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/**
 * Appends, and repeats the request for as long as that can help and there is time. That is safe
 * because of the events' ids, which must be set: what was recorded is found by them and answered as
 * the first time.
 *
 * If it fails with anything but a refusal (a `Failure` that is neither UNAVAILABLE nor
 * OUTCOME_UNKNOWN), the events may have been recorded: the same request again will tell.
 */
export function append(
  store: EventStore,
  request: MessageInitShape<typeof AppendRequestSchema>,
  options: CallOptions,
): Promise<AppendResponse> {
  const events = [...(request.appends ?? []).flatMap((each) => each.events ?? []), ...(request.events ?? [])];
  if (events.some((event) => !event.id)) {
    return Promise.reject(new Error("an event has no id, and could not be appended again safely"));
  }
  return repeat((rest) => store.append(request, rest), options);
}

/** Makes a call again for as long as that can help and there is time. For appends with ids, and for
 * all that writes nothing. */
export async function repeat<T>(call: (options: CallOptions) => Promise<T>, options: CallOptions): Promise<T> {
  const deadline = performance.now() + options.timeoutMs;
  const retry = new Retry();
  for (;;) {
    try {
      // Whole ones: a fraction would make a header that is refused.
      return await call({ ...options, timeoutMs: Math.max(1, Math.ceil(deadline - performance.now())) });
    } catch (error) {
      if (!(await retry.wait(error, { deadline, signal: options.signal }))) throw error;
    }
  }
}

/** Decides whether a call is worth repeating, and when: with delays that grow, and that differ from
 * caller to caller. One for the attempts at one call. */
export class Retry {
  private delay = 0;
  private doubtful = 0;

  /** It works again: begin anew. */
  reset(): void {
    this.delay = this.doubtful = 0;
  }

  /** Waits until the next attempt. Answers false, at once, if that can't help, or if there is no
   * time. `deadline` is on the clock of `performance`. */
  async wait(error: unknown, { deadline = Infinity, signal }: { deadline?: number; signal?: AbortSignal }) {
    if (signal?.aborted || !(error instanceof ConnectError) || !this.mayPass(error)) return false;
    this.delay = Math.min(Math.max(2 * this.delay, 50), 3_000);
    const after = failureOf(error)?.retryAfter;
    const asked = after ? Number(after.seconds) * 1_000 + after.nanos / 1e6 : 0;
    const delay = this.delay * (0.5 + Math.random() / 2) + asked;
    if (performance.now() + delay > deadline) return false;
    return wait(delay, signal);
  }

  private mayPass(error: ConnectError): boolean {
    const failure = failureOf(error);
    if (failure?.retryAfter || failure?.reason === FailureReason.OVERLOADED) return true;
    if (error.code === Code.Unavailable) return true;
    // ABORTED is a conflict, which a repeat would overrule; but a connection that broke, if the
    // server has not said why.
    if (error.code === Code.Aborted && !failure) return true;
    // A proxy's doing, perhaps, or a defect that will be there again.
    const doubtful = [Code.Internal, Code.Unknown, Code.Canceled, Code.DeadlineExceeded, Code.DataLoss];
    return doubtful.includes(error.code) && ++this.doubtful < 3;
  }
}

/** Waits; answers false, at once, if the signal is aborted meanwhile. */
function wait(milliseconds: number, signal?: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (isOver: boolean) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      resolve(isOver);
    };
    const stop = () => end(false);
    const timer = setTimeout(end, milliseconds, true);
    signal?.addEventListener("abort", stop);
  });
}

/** How far a subscriber has come. Store it together with what was made of the events. The position
 * is a string in JSON, which has no integers of 64 bits. */
export interface Checkpoint {
  logId: string;
  position: bigint;
  eventId: string;
}

export const BEGINNING: Checkpoint = { logId: "", position: 0n, eventId: "" };

/** The part of a subscription that lets it begin at a checkpoint. */
export function startAt({ logId, position, eventId }: Checkpoint) {
  return {
    start: { case: "afterPosition" as const, value: position },
    expectedLogId: logId,
    afterEventId: eventId,
  };
}

/**
 * Subscribes, and after any break that may pass subscribes again, where it had stopped. It ends
 * when the signal is aborted, and throws when the server's answer is final: LOG_DIVERGED above all,
 * for a log that has lost what the subscriber saw.
 *
 * It hands out one response after the other, with the checkpoint to store once that response has
 * been dealt with. Every event comes once.
 */
export async function* follow(
  store: EventStore,
  request: MessageInitShape<typeof SubscribeRequestSchema>,
  { signal, headers }: { signal?: AbortSignal; headers?: Record<string, string> } = {},
): AsyncGenerator<{ response: SubscribeResponse; checkpoint: Checkpoint }> {
  let asked = create(SubscribeRequestSchema, request);
  let checkpoint: Checkpoint = {
    logId: asked.expectedLogId,
    position: asked.start.case === "afterPosition" ? asked.start.value : 0n,
    eventId: asked.afterEventId,
  };
  const interval = asked.heartbeatInterval;
  const silence = 3 * (interval ? Number(interval.seconds) * 1_000 + interval.nanos / 1e6 : 10_000);
  const retry = new Retry();
  for (;;) {
    const call = new AbortController();
    const stop = () => call.abort();
    signal?.addEventListener("abort", stop);
    let isSilent = false;
    try {
      signal?.throwIfAborted();
      const responses = store.subscribe(asked, { signal: call.signal, headers })[Symbol.asyncIterator]();
      for (;;) {
        // A connection can die without a word; heartbeats tell. What the consumer takes is no silence.
        const watch = setTimeout(() => call.abort((isSilent = true)), silence);
        const { done, value: response } = await responses.next().finally(() => clearTimeout(watch));
        if (done) throw new ConnectError("the subscription was ended", Code.Unavailable);
        const reached = after(response, checkpoint);
        yield { response, checkpoint: reached };
        checkpoint = reached;
        // From here on, wherever it had begun.
        asked = create(SubscribeRequestSchema, { ...asked, ...startAt(checkpoint) });
        if (response.content.case !== "started") retry.reset();
      }
    } catch (error) {
      if (signal?.aborted) return;
      const why = isSilent ? new ConnectError(`nothing came for ${silence} ms`, Code.Unavailable) : error;
      if (!(await retry.wait(why, { signal }))) {
        if (signal?.aborted) return;
        throw why;
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      call.abort(); // Or a subscription that is left stays open.
    }
  }
}

/** The checkpoint once a response was dealt with. */
function after({ content }: SubscribeResponse, checkpoint: Checkpoint): Checkpoint {
  switch (content.case) {
    case "started": {
      // After a restore that has all of what was seen, the log has another id.
      const { logId, afterPosition: position } = content.value;
      return { logId, position, eventId: position === checkpoint.position ? checkpoint.eventId : "" };
    }
    case "events": {
      const last = content.value.events.at(-1)!;
      return { ...checkpoint, position: last.position, eventId: last.id };
    }
    case "caughtUp":
    case "heartbeat":
      return { ...checkpoint, position: content.value.position, eventId: content.value.eventId };
    case "fellBehind":
      // The log went on under another id, with all of what was seen.
      return { ...checkpoint, logId: content.value.logId || checkpoint.logId };
    default:
      return checkpoint;
  }
}
