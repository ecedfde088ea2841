"""A random outside of a whole engine in virtual time, beside a model that says what must come of each run."""
