"""The Treering service: an event store behind gRPC, kept by SQLite or PostgreSQL."""
