// How Node reaches Treering, by gRPC. It is the part of the helper that a browser has otherwise.

import type { Interceptor, Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

/** A connection to keep for the life of the process. */
export interface Connection {
  transport: Transport;
  /** Ends all calls. Until then an open connection keeps Node from exiting. */
  close(): void;
}

/** Connects, at the first call, to an address as in "127.0.0.1:7464"; pings notice a server that is
 * gone without a word. */
export function connect(address: string, interceptors: Interceptor[] = []): Connection {
  const baseUrl = address.includes("://") ? address : `http://${address}`;
  const sessionManager = new Http2SessionManager(baseUrl, {
    pingIntervalMs: 20_000,
    pingTimeoutMs: 10_000,
  });
  const transport = createGrpcTransport({ baseUrl, sessionManager, interceptors });
  return { transport, close: () => sessionManager.abort() };
}
