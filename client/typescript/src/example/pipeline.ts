import { Code, ConnectError } from "@connectrpc/connect";

import type { Failure } from "../gen/treering/v1/failure_pb.js";
import { Retry } from "../treering.js";
import type { Accounts } from "./accounts.js";

/** Pays in many amounts, pipelined: at most `inFlight` appends wait for their answers at any time.
 * Gives what was refused, by index. */
export async function depositAll(
  accounts: Accounts,
  id: string,
  amounts: number[],
  { inFlight = 500, signal }: { inFlight?: number; signal?: AbortSignal } = {},
): Promise<Map<number, Failure>> {
  const appends = amounts.map((cents) => accounts.depositing(id, cents));
  const refused = new Map<number, Failure>();
  const retry = new Retry();
  let answered = 0;
  let freed = () => {};

  // A message costs more than an append: several in one go much faster.
  const batch = Math.max(1, Math.min(100, Math.floor(inFlight / 2)));
  async function* requests() {
    for (let next = answered; next < appends.length; next += batch) {
      while (next + batch - answered > inFlight) {
        await new Promise<void>((resolve) => (freed = resolve));
      }
      const items = appends.slice(next, next + batch);
      yield { items: items.map((append, index) => ({ requestId: BigInt(next + index), append })) };
    }
  }

  for (;;) {
    try {
      for await (const { results } of accounts.store.appendMany(requests(), { signal })) {
        for (const { requestId, outcome } of results) {
          if (requestId !== BigInt(answered)) throw new Error(`${requestId} was answered, not ${answered}`);
          if (outcome.case === "failure") refused.set(answered, outcome.value);
          answered++;
        }
        retry.reset(); // It has got on.
        freed();
      }
      if (answered === appends.length) return refused;
      throw new ConnectError("the call was ended early", Code.Unavailable);
    } catch (error) {
      // A broken call is gone on with from the first one without an answer. What of it was recorded
      // all the same is found by its ids.
      if (!(await retry.wait(error, { signal }))) throw error;
    }
  }
}
