"""Alembic migrations of the log's schema: a package, so that they load alike from a wheel
and from a checkout. `treering_server.storage.migrations` runs them."""
