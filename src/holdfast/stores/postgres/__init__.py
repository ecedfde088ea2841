"""The PostgreSQL store: any number of workers and clients on any number of machines share one schema."""
