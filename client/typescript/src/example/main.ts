// The example as a program: it opens two accounts, moves money, and prints what a subscription makes
// of it. It calls the server at TREERING_SERVER, or 127.0.0.1:7464.

import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { connect } from "../connection.js";
import { Accounts } from "./accounts.js";
import { followBalances } from "./balances.js";

const connection = connect(process.env.TREERING_SERVER ?? "127.0.0.1:7464");
const folder = await mkdtemp(join(tmpdir(), "balances"));
try {
  const accounts = new Accounts(connection.transport);
  const [anna, bert] = [randomUUID(), randomUUID()];
  await accounts.open(anna, "Anna");
  await accounts.open(bert, "Bert");
  await accounts.deposit(anna, 10_000);
  await accounts.transfer(anna, bert, 2_500);
  for (const event of await accounts.latest(10, anna, bert)) {
    const data = new TextDecoder().decode(event.data);
    console.log(`${event.position} ${event.stream} ${event.version} ${event.type} ${data}`);
  }

  const stop = new AbortController();
  await followBalances(accounts.store, join(folder, "balances"), {
    signal: stop.signal,
    caughtUp: ({ cents }) => {
      console.log(`Anna has ${cents[anna]} cents, Bert has ${cents[bert]}`);
      stop.abort();
    },
  });
} finally {
  await rm(folder, { recursive: true });
  connection.close();
}
