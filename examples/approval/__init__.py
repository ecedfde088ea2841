"""A request that waits up to thirty days for somebody to decide: see README.md."""
