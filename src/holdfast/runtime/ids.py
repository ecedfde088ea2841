"""Ids and chance from the operating system."""

import base64
import os
import random  # noqa: TID251 - the one place that reads it
import secrets

ID_BYTES = 16


class SystemIds:
    """`Ids` from 128 random bits each."""

    def run_id(self) -> str:
        """See `Ids`."""
        return f"run_{_base32()}"

    def message_id(self) -> str:
        """See `Ids`."""
        return f"msg_{_base32()}"

    def worker_id(self) -> str:
        """See `Ids`."""
        return f"{os.getpid()}-{_base32()}"


class SystemChance:
    """`Chance` from the standard generator; jitter needs no secrecy."""

    def random(self) -> float:
        """See `Chance`."""
        return random.random()  # noqa: S311 - no secret; the one place that reads it


def _base32() -> str:
    return base64.b32encode(secrets.token_bytes(ID_BYTES)).decode("ascii").rstrip("=").lower()
