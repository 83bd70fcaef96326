"""The blocking client: made from `_async` by tools/sync_client.py, but for io.py and appender.py,
which are written by hand."""
