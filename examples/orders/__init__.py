"""Two hundred orders, and a worker that is killed in the middle of them: see README.md."""
