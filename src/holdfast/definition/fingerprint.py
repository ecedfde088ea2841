"""Stable hashes of what affects recorded results: of each step, and of a whole workflow (DESIGN: change).

Policies (retry, timeout) and task code are left out on purpose: they come from what is deployed.
"""

import hashlib
from collections.abc import Iterable

import msgspec

from holdfast.definition.step import Step

FINGERPRINT_CHARACTERS = 16
_ENCODER = msgspec.json.Encoder(order="deterministic")


def step_fingerprint(step: Step) -> str:
    """16 hexadecimal characters of SHA-256 over the step's structure."""
    return _digest(_ENCODER.encode(step))


def workflow_fingerprint(name: str, start_at: str, steps: Iterable[Step]) -> str:
    """16 hexadecimal characters over name, start and the steps' fingerprints, in any order."""
    parts = sorted([step.name, step_fingerprint(step)] for step in steps)
    return _digest(_ENCODER.encode([name, start_at, parts]))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:FINGERPRINT_CHARACTERS]
