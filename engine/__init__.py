"""One SQLite database: connections, statements, capture, injection, checksums, the log."""
