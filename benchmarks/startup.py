"""How long a server takes from being started to being of use."""

import socket
import time

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from databases import free_port
from figures import Figure
from servers import ServerProcess

PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.002


def start(database_url: str, measure: str) -> tuple[ServerProcess, list[Figure]]:
    """Starts a server and waits until its health says SERVING."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    began = time.perf_counter()
    server = ServerProcess(database_url, listen=address)
    try:
        _wait_until_it_serves(server, address, port)
        seconds = time.perf_counter() - began
        server.wait_until_ready()
    except BaseException:
        server.kill()
        raise
    return server, [Figure(measure, "time", "ms", seconds * 1000)]


def _wait_until_it_serves(server: ServerProcess, address: str, port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    # gRPC would wait between its own attempts to connect, longer than what is measured.
    while not _is_open(port):
        _pause(server, deadline)
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        request = HealthCheckRequest()
        while check(request, timeout=PATIENCE_SECONDS).status != HealthCheckResponse.SERVING:
            _pause(server, deadline)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _pause(server: ServerProcess, deadline: float) -> None:
    if not server.is_running or time.monotonic() > deadline:
        raise RuntimeError(f"the server does not serve\n{server.text}")
    time.sleep(PAUSE_SECONDS)
