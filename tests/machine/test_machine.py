"""Invariants 2, 4, 13 to 16, 18 to 24, 26, 27, 29 to 32 and 35, whatever people do and whatever goes wrong."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.runtime.urls import store_at
from holdfast.stores import group_commit
from holdfast.stores.base import Store
from holdfast.testing.clock import VirtualClock
from tests.machine.machine import Machine

LONG = os.environ.get("HOLDFAST_SOAK") == "1"
EXAMPLES, STEPS = (20_000, 100) if LONG else (200, 30)
FILES = 500 if LONG else 15


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that did not answer is asked again without a wait."""
    monkeypatch.setattr(group_commit, "REPEAT_FIRST_S", 0)


class FileMachine(Machine):
    """On SQLite."""

    def reopening(self, clock: VirtualClock) -> Callable[[VirtualClock], Store]:
        del clock
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "runs.db"
        return lambda clock: store_at(f"sqlite:///{path}", worker=True, clock=clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


def search(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[*HealthCheck],
        ),
    )


@pytest.mark.slow
def test_whatever_people_do_and_whatever_goes_wrong_runs_are_as_they_must_be() -> None:
    search(Machine, EXAMPLES)


@pytest.mark.slow
def test_it_is_the_same_on_sqlite() -> None:
    search(FileMachine, FILES)
