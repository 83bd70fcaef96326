import { open, readFile, rename } from "node:fs/promises";

import { BEGINNING, type Checkpoint, type EventStore, follow, startAt } from "../treering.js";
import { change } from "./accounts.js";

/** A read model: what is in every account. It is kept in a file, together with the checkpoint up to
 * which it was made, so that after a crash no event counts twice and none is missed. */
export interface Balances {
  checkpoint: Checkpoint;
  cents: Record<string, number>;
  events: number;
}

/** What is in the file; nothing, from before all events, if there is none. */
export async function loadBalances(path: string): Promise<Balances> {
  try {
    const { checkpoint, ...rest } = JSON.parse(await readFile(path, "utf8"));
    return { ...rest, checkpoint: { ...checkpoint, position: BigInt(checkpoint.position) } };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return { checkpoint: BEGINNING, cents: {}, events: 0 };
  }
}

/** Keeps the file up to date until the signal is aborted. `caughtUp` is called whenever all history
 * is in it. */
export async function followBalances(
  store: EventStore,
  path: string,
  { signal, caughtUp }: { signal?: AbortSignal; caughtUp?: (balances: Balances) => void } = {},
): Promise<void> {
  const balances = await loadBalances(path);
  const source = { case: "query" as const, value: { items: [{ categories: ["account"] }] } };
  const request = { source, ...startAt(balances.checkpoint) };
  for await (const { response, checkpoint } of follow(store, request, { signal })) {
    const { content } = response;
    for (const event of content.case === "events" ? content.value.events : []) {
      if (event.position <= balances.checkpoint.position) throw new Error(`${event.position} came twice`);
      const id = event.stream.replace("account-", "");
      balances.cents[id] = (balances.cents[id] ?? 0) + change(event);
      balances.events++;
    }
    balances.checkpoint = checkpoint;
    await save(path, balances);
    if (content.case === "caughtUp") caughtUp?.(balances);
  }
}

/** Replaces the file as a whole: a crash leaves the old one or the new one. */
async function save(path: string, balances: Balances): Promise<void> {
  // JSON knows no bigint.
  const text = JSON.stringify(balances, (_, value) => (typeof value === "bigint" ? value.toString() : value));
  const file = await open(`${path}.new`, "w");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}
