"""Settings of all unit tests: a red example is the same on every machine; the long gates look further."""

import os

from hypothesis import settings

LONG = os.environ.get("HOLDFAST_SOAK") == "1"

settings.register_profile(
    "quick", max_examples=100, deadline=None, database=None, derandomize=True, print_blob=True
)
settings.register_profile("long", max_examples=5_000, deadline=None, database=None, print_blob=True)
settings.load_profile("long" if LONG else "quick")
