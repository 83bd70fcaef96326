"""All that take part, in the order of the tables."""

from contestants.contestant import Contestant
from contestants.emmett import EmmettPostgresql
from contestants.eventsourcing import EventsourcingPostgresql, EventsourcingSqlite
from contestants.eventsourcing_dcb import EventsourcingDcb
from contestants.grpc_null import GrpcHeld, GrpcUnary
from contestants.message_db import MessageDB
from contestants.nats_jetstream import NatsJetstream
from contestants.raw_postgresql import RawPostgresql
from contestants.raw_sqlite import RawSqlite
from contestants.treering import TreeringPostgresql, TreeringSqlite
from contestants.umadb import UmaDB

ENTRANTS: tuple[type[Contestant], ...] = (
    TreeringSqlite,
    TreeringPostgresql,
    UmaDB,
    EventsourcingSqlite,
    EventsourcingPostgresql,
    EventsourcingDcb,
    MessageDB,
    EmmettPostgresql,
    NatsJetstream,
    RawSqlite,
    RawPostgresql,
    GrpcUnary,
    GrpcHeld,
)

NOT_USUAL: tuple[type[Contestant], ...] = (
    EventsourcingPostgresql,
    EventsourcingDcb,
    EmmettPostgresql,
    NatsJetstream,
)
"""Measured only by a full run, or when they are named."""

USUAL_ENTRANTS = tuple(each for each in ENTRANTS if each not in NOT_USUAL)


def find(name: str) -> type[Contestant]:
    """The one of this name."""
    return next(each for each in ENTRANTS if each.name == name)
