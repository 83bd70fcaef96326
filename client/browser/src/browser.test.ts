// The checks with Node's fetch, over both protocols, and in Chromium where it is installed; the
// sidecar in between each time.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { json } from "node:stream/consumers";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { createClient, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";

import { checks } from "./checks.js";
import { EventStoreService } from "./gen/treering/v1/event_store_service_pb.js";

const { TREERING_SERVER: address, TREERING_RESTART, CHROMIUM } = process.env;
if (!address) throw new Error("TREERING_SERVER names no server");

const page = createServer();
await once(page.listen(0, "127.0.0.1"), "listening");
after(() => page.close().closeAllConnections());
const origin = `http://127.0.0.1:${(page.address() as AddressInfo).port}`;

const program = spawn("bin/sidecar", ["-listen", "127.0.0.1:0", "-server", address, "-origins", origin], {
  stdio: ["ignore", "ignore", "pipe"],
});
after(() => program.kill());
const lines = createInterface(program.stderr);
const [line] = (await once(lines, "line")) as [string];
const sidecar = `http://${/listening on (\S+)/.exec(line)![1]}`;

async function restart(): Promise<void> {
  if (!TREERING_RESTART) throw new Error("TREERING_RESTART names no command that restarts the server");
  await promisify(execFile)("sh", ["-c", TREERING_RESTART]);
}

/** A page's fetch, in Node: the browser names the origin by itself. */
const fetchFromPage: typeof fetch = (input, init) => {
  const headers = new Headers(init?.headers);
  headers.set("origin", origin);
  return fetch(input, { ...init, headers });
};

const options = { baseUrl: sidecar, useBinaryFormat: true, fetch: fetchFromPage };
const transports: Record<string, Transport> = {
  Connect: createConnectTransport(options),
  "gRPC-Web": createGrpcWebTransport(options),
};

for (const [name, transport] of Object.entries(transports)) {
  const store = createClient(EventStoreService, transport);
  for (const [title, check] of Object.entries(checks)) {
    test(`${name}: ${title}`, { timeout: 60_000 }, () => check({ store, restart }));
  }
}

const append = `${sidecar}/treering.v1.EventStoreService/Append`;
/** What the browser may ask for. */
const FILES: Record<string, string> = Object.fromEntries(
  ["checks.html", "checks-page.js", "index.html", "page.js"].map((name) => [`/${name}`, name]),
);

const connectHeaders = { "content-type": "application/json", "connect-protocol-version": "1" };

test("a page of another origin, or of none, is refused", async () => {
  const others: Record<string, string>[] = [{}, { origin: "http://127.0.0.1:1" }, { origin: `${origin}1` }];
  for (const other of others) {
    const headers = { ...connectHeaders, ...other };
    const { status } = await fetch(append, { method: "POST", headers, body: "{}" });
    assert.equal(status, 403);
  }
});

test("no other service is there", async () => {
  const url = `${sidecar}/treering.v1.StreamService/DeleteStream`;
  const { status } = await fetchFromPage(url, { method: "POST", headers: connectHeaders, body: "{}" });
  assert.equal(status, 404);
});

test("a field that nobody knows is refused, in JSON and in binary", async () => {
  const unknown = { events: [{ id: randomUUID(), type: "Happened" }], onlyIf: "never" };
  // Field 1000, of one byte, is all there is.
  const bodies = { "application/json": JSON.stringify(unknown), "application/proto": new Uint8Array([0xc0, 0x3e, 1]) };
  for (const [type, body] of Object.entries(bodies)) {
    const response = await fetchFromPage(append, { method: "POST", headers: { ...connectHeaders, "content-type": type }, body });
    const { code, message } = (await response.json()) as { code: string; message: string };
    // The sidecar refuses the one, the server the other.
    if (type === "application/json") assert.match(message, /unknown field "onlyIf"/);
    else assert.equal(code, "invalid_argument");
    assert.notEqual(response.status, 200);
  }
});

test("in Chromium", { skip: CHROMIUM ? false : "no chromium on the PATH", timeout: 120_000 }, async (t) => {
  const verdicts = new Promise<Record<string, string>>((resolve) => {
    page.on("request", async (request, response) => {
      const file = FILES[new URL(request.url!, origin).pathname];
      if (file) {
        response.setHeader("content-type", file.endsWith(".js") ? "text/javascript" : "text/html");
        response.end(await readFile(`page/${file}`));
      } else if (request.url === "/restart") {
        await restart();
        response.end();
      } else if (request.url === "/verdicts") {
        response.end();
        resolve((await json(request)) as Record<string, string>);
      } else {
        response.writeHead(404).end();
      }
    });
  });
  const profile = await mkdtemp(join(tmpdir(), "chromium"));
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", `--user-data-dir=${profile}`];
  const browser = spawn(CHROMIUM!, [...flags, `${origin}/checks.html?sidecar=${sidecar}`], { stdio: "ignore" });
  const gone = once(browser, "exit");
  try {
    const found = await verdicts;
    const titles = [...Object.keys(checks), "the page shows what is written on it"];
    assert.deepEqual(found, Object.fromEntries(titles.map((title) => [title, "passed"])));
    t.diagnostic(Object.keys(found).join("; "));
  } finally {
    browser.kill();
    await gone;
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
});
