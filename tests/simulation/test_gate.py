"""The gate: thousands of schedules of the unpatched engine, with every kind of fault among them."""

import os
from typing import get_args

import pytest

from holdfast.core.entries import Entry, RunBlocked
from holdfast.testing.simulator.simulate import simulate
from holdfast.testing.simulator.sweep import sweep_side_by_side
from holdfast.testing.simulator.world import KINDS, Faults

LONG = os.environ.get("HOLDFAST_SOAK") == "1"
SCHEDULES = 100_000 if LONG else 5_000
CALLS: tuple[str, ...] = (
    "open",
    "save_definition",
    "register",
    "claim",
    "held",
    "claim_one",
    "reap",
    "retire",
    "commit",
)
CALLS += ("counts", "replace", "delete", "sweep", "workers")
READS = ("find_definition", "definition_names", "find_run", "load", "read_journal", "read_inbox")
DEEDS = ("returns", "raises", "overruns", "hangs", "defies", "unencodable", "kills", "blocks")
ANSWERS = ("start of an id that exists", "start with another input", "resume", "result not in time")
OUTCOMES = ("Applied", "Fenced", "Unread", "Over", "Exists")
ENTRIES = [entry for entry in get_args(Entry) if entry is not RunBlocked]
"""A run is blocked by one only if its code has changed, which no simulated code does."""
ERRANDS = ("signal", "pause", "unpause", "cancel", "retry", "restart", "delete", "look")
STATES = ("pending", "running", "suspended", "paused")
WAITING = (
    *(
        f"{errand} of a run that is {state}"
        for errand in ("signal", "pause", "unpause", "cancel")
        for state in STATES
    ),
    *(f"{errand} again in another life" for errand in ERRANDS),
    *(f"{errand} refused with RunNotFoundError" for errand in ERRANDS if errand != "restart"),
    *(f"{errand} refused with RunStateError" for errand in ERRANDS if errand not in {"restart", "look"}),
    *(f"restart of a run that is {state}" for state in (*STATES, "completed", "failed", "cancelled")),
    *(f"delete of a run that is {state}" for state in ("completed", "failed", "cancelled")),
    *(f"explained {reason}" for reason in ("over", "blocked", "pause", "signal")),
    *(f"look: {reason}" for reason in ("over", "due", "running", "pause", "signal", "timer", "backoff")),
    *(f"{errand} of a child" for errand in ERRANDS),
    "explained child",
    "look: child",
    "cancel of a run that is blocked",
    "retry of a run that is failed",
    "pause of a run",
    "pause of a branch",
    "pause that freezes",
    "pause that freezes nothing",
    "pause refused with BranchNotFoundError",
    "unpause of a run",
    "unpause of a branch",
    "clock re-based",
    "run with a time-out",
    "append to an unheld run",
    "undelivered signal",
    "replaced",
    "removed",
)
"""What people do to runs, in what state they find them, and what comes of it."""
OPERATIONS = ("step", "record", "value", "patch", "sleep", "wait_signal", "child")
FUNCTIONS = (
    *(f"operation {kind}" for kind in OPERATIONS),
    *(f"operation {kind} begins" for kind in ("sleep", "wait_signal", "child")),
    *(f"{work} closed" for work in ("gather", "race", "map")),
    *(f"child outcome {entry}" for entry in ("OperationCompleted", "OperationFailed")),
    *(f"{control} passed down" for control in ("pause", "unpause", "cancel")),
    "operation tried again",
    "body begins",
    "begun anew",
    "child of a run",
    "child of a child",
    "child detached",
    "signal given back",
)
"""What durable functions ask for, and what becomes of it; that bodies are put away is an entry."""
DELAYED = Faults(kinds=("delay_answer",), rate=0.3, until_s=60)
SLOW = Faults(kinds=("delay_answer", "delay_request"), rate=0.2, until_s=100)
UNSURE = Faults(kinds=("late", "refuse", "hide"), rate=0.3, until_s=60)
MIXED = (71, 320, 414, 1078, 1433, 2265, 2276, 2340, 2486, 2628, 2901, 2996, 3237, 3363, 3375, 3688)
RED: list[tuple[int, Faults | None, bool | None]] = [(seed, None, False) for seed in MIXED]
RED += [(52, DELAYED, False), (98, DELAYED, False), (320, SLOW, False), (349, UNSURE, False)]
MIXED_WAITING = (46, 1507, 1902, 2373, 3540, 3601, 3935, 4478, 4506, 4923, 6118, 6828)
RED += [(seed, None, False) for seed in MIXED_WAITING]
MIXED_FUNCTIONS = (1, 32, 33, 87, 91, 96, 102, 106, 108, 158, 168, 179, 191, 240, 333, 1586, 3304)
RED += [(seed, None, True) for seed in MIXED_FUNCTIONS]
FAR = (
    302608,
    306336,
    306363,
    309012,
    700583,
    703000,
    705268,
    705816,
    706156,
    706870,
    707283,
)
RED += [(seed, None, None) for seed in FAR]
"""Seeds that have been red once, kept for ever; with or without durable functions, or as the seed says."""


@pytest.mark.slow
def test_no_schedule_breaks_an_invariant() -> None:
    swept = sweep_side_by_side(range(SCHEDULES), processes=2)
    assert swept.failed == []
    never = [kind for kind in KINDS if not swept.hits[kind]]
    never += [call for call in CALLS + READS if not swept.hits[f"faulty {call}"]]
    never += [deed for deed in DEEDS if not swept.hits[f"deed {deed}"]]
    never += [outcome for outcome in OUTCOMES if not swept.hits[f"outcome {outcome}"]]
    never += [entry.__name__ for entry in ENTRIES if not swept.hits[f"entry {entry.__name__}"]]
    never += [each for each in (*ANSWERS, *ERRANDS, *WAITING, *FUNCTIONS) if not swept.hits[each]]
    assert never == [], "a schedule in which nothing happens proves nothing"


@pytest.mark.parametrize(("seed", "faults", "functions"), RED)
def test_what_was_red_once_stays_green(seed: int, faults: Faults | None, functions: bool | None) -> None:
    assert simulate(seed, faults=faults, functions=functions).problems == ()


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_fault_alone_breaks_nothing(kind: str, functions: bool) -> None:
    faults = Faults(kinds=(kind,), rate=0.2, chaos_s=3, until_s=60)
    reports = [simulate(seed, faults=faults, functions=functions) for seed in range(10)]
    assert [report.problems for report in reports] == [()] * 10
    assert sum(report.hits[kind] for report in reports) > 0


@pytest.mark.parametrize("functions", [False, True])
def test_a_calm_schedule_is_exact(functions: bool) -> None:
    for seed in range(20):
        report = simulate(seed, faults=Faults(), functions=functions)
        assert report.problems == ()
        assert not any(report.hits[kind] for kind in KINDS)
