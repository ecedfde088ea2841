"""The SQLite store: one file, one worker process, any number of clients."""
