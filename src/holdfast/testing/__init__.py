"""Shipped for tests of users and of the project itself: an engine in virtual time, and faulty stores."""

from holdfast.testing.clock import VirtualClock
from holdfast.testing.crashes import Crash, CrashReport, Repeat, acrash_everywhere, crash_everywhere
from holdfast.testing.engine import TestEngine, TestHandle

__all__ = [
    "Crash",
    "CrashReport",
    "Repeat",
    "TestEngine",
    "TestHandle",
    "VirtualClock",
    "acrash_everywhere",
    "crash_everywhere",
]
