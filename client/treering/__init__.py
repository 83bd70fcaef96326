"""The client of Treering, an event store that services talk to over gRPC.

```python
from treering import Client, Event

with Client("127.0.0.1:7464") as client:
    client.append("order-1042", Event("OrderPlaced", {"total": 42}), expected_version=0)
    for event in client.read("order-1042"):
        print(event.version, event.type, event.json())
```

`AsyncClient` has the same methods for asyncio. What goes wrong is raised as one of the
exceptions that `treering.errors` shows as a tree.
"""

from treering._async.client import AsyncClient
from treering._async.reading import AsyncReading
from treering._async.subscription import AsyncSubscription
from treering._sync.client import Client
from treering._sync.reading import Reading
from treering._sync.subscription import Subscription
from treering.appends import Appended, Condition, StreamAppend
from treering.checkpoints import (
    CaughtUp,
    Checkpoint,
    FellBehind,
    Head,
    Heartbeat,
    Sign,
    Started,
)
from treering.errors import (
    AlreadyExists,
    ClientClosed,
    ConditionFailed,
    ConditionTooCostly,
    Conflict,
    DeadlineExceeded,
    EventIdConflict,
    FailedPrecondition,
    InvalidRequest,
    LimitExceeded,
    LogDiverged,
    LogMismatch,
    MinPositionNotReached,
    NotFound,
    OutcomeUnknown,
    OutOfRange,
    Overloaded,
    PositionAheadOfLog,
    ReadOnly,
    ResourceExhausted,
    ServerDefect,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
    StreamDeleted,
    TreeringError,
    Unavailable,
    VersionConflict,
    Violation,
)
from treering.events import Event, RecordedEvent
from treering.ids import uuid7
from treering.queries import Query, QueryItem
from treering.reads import ReadState
from treering.streams import Deletion, Retention, Stream

__all__ = [
    "AlreadyExists",
    "Appended",
    "AsyncClient",
    "AsyncReading",
    "AsyncSubscription",
    "CaughtUp",
    "Checkpoint",
    "Client",
    "ClientClosed",
    "Condition",
    "ConditionFailed",
    "ConditionTooCostly",
    "Conflict",
    "DeadlineExceeded",
    "Deletion",
    "Event",
    "EventIdConflict",
    "FailedPrecondition",
    "FellBehind",
    "Head",
    "Heartbeat",
    "InvalidRequest",
    "LimitExceeded",
    "LogDiverged",
    "LogMismatch",
    "MinPositionNotReached",
    "NotFound",
    "OutOfRange",
    "OutcomeUnknown",
    "Overloaded",
    "PositionAheadOfLog",
    "Query",
    "QueryItem",
    "ReadOnly",
    "ReadState",
    "Reading",
    "RecordedEvent",
    "ResourceExhausted",
    "Retention",
    "ServerDefect",
    "ShuttingDown",
    "Sign",
    "Started",
    "StorageFull",
    "StorageUnavailable",
    "Stream",
    "StreamAppend",
    "StreamDeleted",
    "Subscription",
    "TreeringError",
    "Unavailable",
    "VersionConflict",
    "Violation",
    "uuid7",
]
