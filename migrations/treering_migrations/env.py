"""Runs the migrations on the connection that `storage.migrations` gives, in its transaction."""

from alembic import context

from treering_server.storage.migrations import VERSION_TABLE
from treering_server.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=False,
)
context.run_migrations()
