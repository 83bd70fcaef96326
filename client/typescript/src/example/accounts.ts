// A small service that keeps accounts as events. Everything a service does with Treering is in this
// folder once, in the way that we would write it: accounts.ts decides and appends, pipeline.ts
// appends much at once, balances.ts follows. Copy what you need.

import { timestampFromDate, timestampNow, type Timestamp } from "@bufbuild/protobuf/wkt";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient, type Transport } from "@connectrpc/connect";
import { v7 as uuid } from "uuid";

import type { EventSchema, RecordedEvent } from "../gen/treering/v1/event_pb.js";
import {
  type AppendRequestSchema,
  Direction,
  EventStoreService,
  type ReadRequestSchema,
} from "../gen/treering/v1/event_store_service_pb.js";
import { FailureReason } from "../gen/treering/v1/failure_pb.js";
import { append, type CallOptions, type EventStore, failureOf, isConflict, repeat } from "../treering.js";

/** A refusal of the service itself. */
export class Refused extends Error {}

/** Milliseconds that a request to the service may take, with all its calls and repeats. */
const TIMEOUT = 10_000;

export class Accounts {
  readonly store: EventStore;

  /** `traceparent` says which trace the calls belong to, and the events that are appended. */
  constructor(
    transport: Transport,
    private readonly traceparent?: string,
  ) {
    this.store = createClient(EventStoreService, transport);
  }

  /** Opens an account that is not there yet. */
  async open(id: string, owner: string): Promise<void> {
    const opened = this.event("AccountOpened", { owner }, account(id));
    try {
      await append(
        this.store,
        // 0n is not the same as none: the stream must not exist.
        { appends: [{ stream: stream(id), expectation: { case: "expectedVersion", value: 0n }, events: [opened] }] },
        this.options(),
      );
    } catch (error) {
      const failure = failureOf(error);
      switch (failure?.detail.case) {
        case "versionConflict":
          throw new Refused(`${id} exists already, at version ${failure.detail.value.actualVersion}`);
        case "invalidRequest": {
          const { field, description, limit } = failure.detail.value.violations[0]!;
          throw new Refused(`${field}: ${description} (limit ${limit})`);
        }
      }
      throw error;
    }
  }

  /** Pays in. */
  async deposit(id: string, cents: number): Promise<void> {
    try {
      await append(this.store, this.depositing(id, cents), this.options());
    } catch (error) {
      throw isConflict(error) ? new Refused(`no account ${id}`) : error;
    }
  }

  depositing(id: string, cents: number): MessageInitShape<typeof AppendRequestSchema> {
    const deposited = this.event("MoneyDeposited", { amount: cents }, account(id));
    const expectation = { case: "expectedExists" as const, value: true };
    return { appends: [{ stream: stream(id), expectation, events: [deposited] }] };
  }

  /** Pays out what is there. */
  async withdraw(id: string, cents: number): Promise<void> {
    const options = this.options();
    for (;;) {
      const { balance, version } = await this.load(id, options);
      if (balance < cents) throw new Refused("not enough money");
      const withdrawn = this.event("MoneyWithdrawn", { amount: cents }, account(id));
      // Only if nothing has come in between.
      const expectation = { case: "expectedVersion" as const, value: version };
      try {
        await append(this.store, { appends: [{ stream: stream(id), expectation, events: [withdrawn] }] }, options);
        return;
      } catch (error) {
        if (!isConflict(error)) throw error;
        // Something has: load again, decide again.
      }
    }
  }

  /** Gives an account a name that no other one has, whatever stream it is in. */
  async claimName(id: string, name: string): Promise<void> {
    const options = this.options();
    const claims = { items: [{ types: ["NameClaimed"], tags: [`name:${name}`] }] };
    for (;;) {
      const { events, headPosition } = await this.read({ source: { case: "query", value: claims } }, options);
      if (events.length > 0) throw new Refused(`another account has the name ${name}`);
      const claimed = this.event("NameClaimed", { name }, account(id), `name:${name}`);
      const expectation = { case: "expectedExists" as const, value: true };
      try {
        await append(
          this.store,
          {
            appends: [{ stream: stream(id), expectation, events: [claimed] }],
            // Only if nobody has claimed it since we looked.
            conditions: [{ failIfMatch: claims, afterPosition: headPosition }],
          },
          options,
        );
        return;
      } catch (error) {
        const reason = failureOf(error)?.reason;
        if (reason === FailureReason.VERSION_CONFLICT) throw new Refused(`no account ${id}`);
        if (reason !== FailureReason.CONDITION_FAILED) throw error;
      }
    }
  }

  /** Moves money from one account to another: both events are recorded, or none. */
  async transfer(from: string, to: string, cents: number): Promise<void> {
    const options = this.options();
    for (;;) {
      const { balance, version } = await this.load(from, options);
      await this.load(to, options);
      if (balance < cents) throw new Refused("not enough money");
      try {
        await append(
          this.store,
          {
            appends: [
              {
                stream: stream(from),
                expectation: { case: "expectedVersion", value: version },
                events: [this.event("MoneyWithdrawn", { amount: cents }, account(from))],
              },
              {
                stream: stream(to),
                expectation: { case: "expectedExists", value: true }, // What else comes in does not matter.
                events: [this.event("MoneyDeposited", { amount: cents }, account(to))],
              },
            ],
          },
          options,
        );
        return;
      } catch (error) {
        if (!isConflict(error)) throw error;
      }
    }
  }

  /** What is there now. */
  async balance(id: string): Promise<number> {
    return (await this.load(id, this.options())).balance;
  }

  /** What was there at a time. A Date has milliseconds, a Timestamp nanoseconds. */
  async balanceAt(id: string, at: Date | Timestamp): Promise<number> {
    const value = at instanceof Date ? timestampFromDate(at) : at;
    const { events } = await this.read(
      { source: { case: "stream", value: stream(id) }, until: { case: "untilTime", value } },
      this.options(),
    );
    return sum(events);
  }

  /** The last movements of some accounts, the newest first. */
  async latest(limit: number, ...ids: string[]): Promise<RecordedEvent[]> {
    // An event matches if any item does; an item, if all its parts do.
    const items = ids.map((id) => ({ types: ["MoneyDeposited", "MoneyWithdrawn"], tags: [account(id)] }));
    const { events } = await this.read(
      {
        source: { case: "query", value: { items } },
        direction: Direction.BACKWARDS,
        limit: BigInt(limit),
      },
      this.options(),
    );
    return events;
  }

  /** An account as its events have made it, and its version. */
  private async load(id: string, options: CallOptions): Promise<{ balance: number; version: bigint }> {
    const { events, streamVersion } = await this.read({ source: { case: "stream", value: stream(id) } }, options);
    if (streamVersion === 0n) throw new Refused(`no account ${id}`);
    return { balance: sum(events), version: streamVersion };
  }

  /** All events of a read, and the state that was read. */
  private read(request: MessageInitShape<typeof ReadRequestSchema>, options: CallOptions) {
    return repeat(async (rest) => {
      const events: RecordedEvent[] = [];
      let headPosition = 0n;
      let streamVersion = 0n;
      for await (const response of this.store.read(request, rest)) {
        events.push(...response.events);
        ({ headPosition, streamVersion } = response);
      }
      return { events, headPosition, streamVersion };
    }, options);
  }

  /** The deadline goes along with a call, and so does the trace. */
  private options(): CallOptions {
    return { timeoutMs: TIMEOUT, headers: this.traceparent ? { traceparent: this.traceparent } : {} };
  }

  /** Makes an event, with the id by which its append is found if it has to be repeated. */
  private event(type: string, data: object, ...tags: string[]): MessageInitShape<typeof EventSchema> {
    return {
      id: uuid(),
      type,
      data: new TextEncoder().encode(JSON.stringify(data)),
      tags,
      time: timestampNow(),
      metadata: this.traceparent ? { traceparent: this.traceparent } : {},
    };
  }
}

function sum(events: RecordedEvent[]): number {
  return events.reduce((balance, event) => balance + change(event), 0);
}

/** What an event does to a balance. Events of types that it does not know do nothing. */
export function change({ type, data }: RecordedEvent): number {
  const sign = { MoneyDeposited: 1, MoneyWithdrawn: -1 }[type];
  return sign ? sign * (JSON.parse(new TextDecoder().decode(data)) as { amount: number }).amount : 0;
}

const stream = (id: string) => `account-${id}`;
const account = (id: string) => `account:${id}`;
