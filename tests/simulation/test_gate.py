"""The gate: thousands of schedules of the unpatched engine, with every kind of fault among them."""

import os

import pytest

from holdfast.testing.simulator.simulate import simulate
from holdfast.testing.simulator.sweep import sweep_side_by_side
from holdfast.testing.simulator.world import KINDS, Faults

LONG = os.environ.get("HOLDFAST_SOAK") == "1"
SCHEDULES = 100_000 if LONG else 5_000
CALLS = ("open", "save_definition", "register", "claim", "held", "claim_one", "reap", "retire", "commit")
READS = ("find_definition", "definition_names", "find_run", "find_snapshot", "read_journal", "read_inbox")
DEEDS = ("returns", "raises", "overruns", "hangs", "defies", "unencodable", "kills", "blocks")
ANSWERS = ("start of an id that exists", "start with another input", "message", "resume", "result not in time")
DELAYED = Faults(kinds=("delay_answer",), rate=0.3, until_s=60)
SLOW = Faults(kinds=("delay_answer", "delay_request"), rate=0.2, until_s=100)
UNSURE = Faults(kinds=("late", "refuse", "hide"), rate=0.3, until_s=60)
MIXED = (71, 320, 414, 1078, 1433, 2265, 2276, 2340, 2486, 2628, 2901, 2996, 3237, 3363, 3375, 3688)
RED: list[tuple[int, Faults | None]] = [(seed, None) for seed in MIXED]
RED += [(52, DELAYED), (98, DELAYED), (320, SLOW), (349, UNSURE)]
"""Seeds that have been red once, kept for ever."""


@pytest.mark.slow
def test_no_schedule_breaks_an_invariant() -> None:
    swept = sweep_side_by_side(range(SCHEDULES), processes=2)
    assert swept.failed == []
    never = [kind for kind in KINDS if not swept.hits[kind]]
    never += [call for call in CALLS + READS if not swept.hits[f"faulty {call}"]]
    never += [deed for deed in DEEDS if not swept.hits[f"deed {deed}"]]
    never += [answer for answer in ANSWERS if not swept.hits[answer]]
    assert never == [], "a schedule in which nothing happens proves nothing"


@pytest.mark.parametrize(("seed", "faults"), RED)
def test_what_was_red_once_stays_green(seed: int, faults: Faults | None) -> None:
    assert simulate(seed, faults=faults).problems == ()


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_fault_alone_breaks_nothing(kind: str) -> None:
    faults = Faults(kinds=(kind,), rate=0.2, chaos_s=3, until_s=60)
    reports = [simulate(seed, faults=faults) for seed in range(10)]
    assert [report.problems for report in reports] == [()] * 10
    assert sum(report.hits[kind] for report in reports) > 0


def test_a_calm_schedule_is_exact() -> None:
    for seed in range(20):
        report = simulate(seed, faults=Faults())
        assert report.problems == ()
        assert not any(report.hits[kind] for kind in KINDS)
