"""Whether a log is what it must be after all that was done to it: fast and wrong fails."""

from collections.abc import Mapping

import grpc

from checks import check_durable, check_log
from treering.v1.event_pb2 import RecordedEvent
from treering.v1.event_store_service_pb2 import ReadRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.query_pb2 import Query


def verify(address: str, imported: int, acknowledged: Mapping[str, int]) -> None:
    """Reads the whole log, which holds what was imported and single events that were
    acknowledged, each at a position, and nothing else.

    Raises:
        BrokenPromise: It does not, or not in order.
    """
    log: list[RecordedEvent] = []
    head = 0
    with grpc.insecure_channel(address) as channel:
        for response in EventStoreServiceStub(channel).Read(ReadRequest(query=Query(all=True))):
            log.extend(response.events)
            head = response.head_position
    check_log(log)
    check_durable(log, acknowledged)
    if not len(log) == head == imported + len(acknowledged):
        raise RuntimeError(
            f"the log has {len(log)} events and its head at {head}, "
            f"where {imported} were imported and {len(acknowledged)} appended"
        )
