"""All SQL. Keeps the log in SQLite or PostgreSQL."""
