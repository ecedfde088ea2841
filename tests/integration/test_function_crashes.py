"""A crash at any commit of a durable function changes neither journal nor result, and repeats nothing."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast import Context, Function, workflow
from holdfast.codecs import json as codec
from holdfast.core.entries import (
    NOTHING_SET,
    Entry,
    OperationBegun,
    OperationCompleted,
    RunStarted,
    ScopesClosed,
    StepCompleted,
    StepSuspended,
)
from holdfast.testing import Crash, CrashReport, Repeat, crash_everywhere
from holdfast.testing.recorded import Journal, first_difference
from tests.integration.functions import (
    EXAMPLES,
    UUID_TEXT,
    WORLD,
    Example,
    World,
    add,
    reset,
    small,
)

LONG = os.environ.get("HOLDFAST_SOAK") == "1"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
IN_THREADS = "fan"
"""Its threads end in the order in which they like to, and share commits as it comes."""


def crashed(example: Example, folder: Path | None = None, every: int = 1) -> CrashReport:
    return crash_everywhere(
        example.function,
        example.input,
        signals=example.signals,
        others=example.others,
        reset=reset,
        effects=lambda: WORLD,
        folder=folder,
        every=every,
    )


def check(example: Example, report: CrashReport) -> None:
    """What must be true of each of them; bugs that are planted must make it fail."""
    assert UUID.sub(UUID_TEXT, repr(report.outcome)) == repr(("completed", example.outcome))
    report.assert_safe()
    for crash in report.crashes:
        check_asked(report, crash)


def check_asked(report: CrashReport, crash: Crash) -> None:
    """What was asked of the world once more than without a crash was under way at the crash; nothing twice."""
    calm, ended = asked(report.effects), asked(crash.effects)
    more = ended - calm
    assert not calm - ended
    assert all(times == 1 for times in more.values())
    # Besides steps, which are counted elsewhere too, one thing that `record` has fetched.
    assert more.total() <= sum(repeat.times - 1 for repeat in crash.repeats) + 1


def asked(world: object) -> Counter[str]:
    assert isinstance(world, World)
    return world.asked


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_crash_at_any_commit_gives_the_same_journal_and_the_same_result(name: str) -> None:
    """Invariants 2, 3, 13, 14 and 36."""
    report = crashed(EXAMPLES[name])
    check(EXAMPLES[name], report)
    if name != IN_THREADS:
        assert len(report.crashes) == 2 * report.commits


@pytest.mark.parametrize("name", EXAMPLES)
def test_so_does_a_crash_in_a_file(name: str, tmp_path: Path) -> None:
    check(EXAMPLES[name], crashed(EXAMPLES[name], tmp_path, every=1 if LONG else 4))


def test_a_step_whose_end_was_acknowledged_never_runs_again() -> None:
    """Told by the world alone: what was done by the commit that was crashed was asked for as often as ever."""
    report = crashed(EXAMPLES["saga"])
    done: list[str] = []
    for crash in report.crashes:
        if crash.when == "after":
            done += re.findall(r"OperationCompleted of '(\w+#1)'", crash.what)
        again = asked(crash.effects) - asked(report.effects)
        assert not [place for place in again if place.split()[1] in done]
    assert done == ["reserve#1", "charge#1", "refund#1", "release#1"]


# What a report says about functions.


@workflow
async def plain(ctx: Context, number: int) -> int:
    doubled = await ctx.gather(ctx.step(add, number), ctx.step(add, number + 1, name="more"))
    return await ctx.child(small, sum(doubled))


def test_the_report_names_operations_and_the_children_that_they_are_of() -> None:
    report = crash_everywhere(plain, 1, others=[small], reset=reset)
    whats = [crash.what for crash in report.crashes if crash.when == "before"]
    assert whats[:3] == [
        "the start of the run",
        "OperationCompleted of 'gather#1/0/add#1' in step 'plain'",
        "OperationCompleted of 'gather#1/1/more#1' in step 'plain'",
    ]
    repeats = {repeat for crash in report.crashes for repeat in crash.repeats if not repeat.run}
    assert repeats == {
        Repeat("add", "plain", "main", 1, 1, 2, "gather#1/0/add#1"),
        Repeat("add", "plain", "main", 1, 1, 2, "gather#1/1/more#1"),
    }
    (child,) = {
        repeat.run.rpartition("-")[0] for crash in report.crashes for repeat in crash.repeats if repeat.run
    }
    assert child == "crashed/small#1"


def test_bodies_of_functions_may_run_again_and_their_steps_must_be_named() -> None:
    report = crash_everywhere(plain, 1, others=[small], reset=reset)
    assert report.repeated == {"add"}
    report.assert_safe(idempotent={"add"})
    with pytest.raises(AssertionError, match="the body of task 'add' ran 2 times for one attempt"):
        report.assert_safe(idempotent=())


def test_a_run_that_begins_anew_is_crashed_there_too() -> None:
    report = crashed(EXAMPLES["rounds"])
    assert [crash.what for crash in report.crashes].count("the run beginning anew") == 4


CALLS: list[int] = []


@workflow
async def careless(ctx: Context) -> int:
    """Asks the outside without `record`."""
    CALLS.append(1)
    await ctx.step(add, 1, name=f"number-{len(CALLS)}")
    return await ctx.step(add, 2)


@workflow
async def twice(ctx: Context) -> int:
    async def pay() -> int:
        CALLS.append(1)
        return 1

    return await ctx.step(pay)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (careless, "the run ended with RunBlockedError"),
        (twice, r"the effects are \[1, 1\], and without a crash \[1\] \(ran more than once: pay\)"),
    ],
)
def test_bugs_of_users_are_found(function: Function[..., Any], found: str) -> None:
    report = crash_everywhere(function, reset=CALLS.clear, effects=lambda: CALLS)
    with pytest.raises(AssertionError, match=found):
        report.assert_safe()


# When journals are the same.

AT = ("main", "f", 1)
STARTED = RunStarted("f", "", b"", ())
ENDED = StepCompleted("main", "f", 1, 1, b"", ())


def done(key: str, value: object = 1, *, seq: int = 0, sets: Mapping[str, bytes] = NOTHING_SET) -> Entry:
    return OperationCompleted(*AT, key, "step", codec.encode(value), seq, sets)


def difference(one: Sequence[Entry], other: Sequence[Entry], *, with_data: bool = True) -> str:
    journals = [{"r": Journal("r", "r", 1, each, each, 0)} for each in (one, other)]
    return first_difference(*journals, with_data=with_data)


SAME = {
    "scopes in another order": ([done("g#1/0/a#1"), done("g#1/1/a#1")], [done("g#1/1/a#1"), done("g#1/0/a#1")]),
    "put away": ([done("a#1")], [done("a#1"), StepSuspended(*AT)]),
    "cancelled elsewhere": (
        [done("g#1/0/a#1"), done("g#1/1/a#1"), ScopesClosed(*AT, "g#1", (0,))],
        [done("g#1/0/a#1"), ScopesClosed(*AT, "g#1", (0,))],
    ),
    "one more had ended": (
        [done("g#1/0/a#1"), done("g#1/1/a#1")],
        [done("g#1/0/a#1"), ScopesClosed(*AT, "g#1", (0,))],
    ),
    "set with another entry": (
        [done("a#1", sets={"v": b"1"}), done("b#1")],
        [done("a#1"), done("b#1", sets={"v": b"1"})],
    ),
    "another message": ([done("a#1", seq=1)], [done("a#1", seq=2)]),
}
OTHERS = {
    "another order": ([done("a#1"), done("b#1")], [done("b#1"), done("a#1")]),
    "another key": ([done("a#1")], [done("b#1")]),
    "one less": ([done("a#1"), done("b#1")], [done("a#1")]),
    "one twice": ([done("a#1")], [done("a#1"), done("a#1")]),
    "another kind": ([done("a#1")], [OperationCompleted(*AT, "a#1", "record", b"1")]),
    "another beginning": ([OperationBegun(*AT, "a#1", "sleep"), done("a#1")], [done("a#1")]),
    "the work of a part that ended in both": (
        [done("g#1/0/a#1"), done("g#1/1/a#1"), ScopesClosed(*AT, "g#1", (1,))],
        [done("g#1/0/a#1"), ScopesClosed(*AT, "g#1", (1,))],
    ),
}
DATA = {
    "another output": ([done("a#1", 1)], [done("a#1", 2)]),
    "another variable": ([done("a#1", sets={"v": b"1"})], [done("a#1", sets={"v": b"2"})]),
}


@pytest.mark.parametrize("what", SAME)
def test_what_a_crash_may_change_makes_no_difference(what: str) -> None:
    one, other = SAME[what]
    assert not difference([STARTED, *one, ENDED], [STARTED, *other, ENDED])


@pytest.mark.parametrize("what", {**OTHERS, **DATA})
def test_what_it_may_not_change_does(what: str) -> None:
    one, other = {**OTHERS, **DATA}[what]
    assert difference([STARTED, *one, ENDED], [STARTED, *other, ENDED])


@pytest.mark.parametrize("what", {**OTHERS, **DATA})
def test_data_count_only_where_they_are_asked_for(what: str) -> None:
    one, other = {**OTHERS, **DATA}[what]
    found = difference([STARTED, *one, ENDED], [STARTED, *other, ENDED], with_data=False)
    assert bool(found) is (what in OTHERS)


def test_children_of_parts_that_were_cancelled_make_no_difference() -> None:
    parent = {"r": Journal("r", "r", 1, (), (ScopesClosed(*AT, "g#1", (0,)),), 0)}
    beaten = Journal("c", "r/g#1/1/c#1-0", 1, (), (), 0)
    winner = Journal("c", "r/g#1/0/c#1-0", 1, (), (), 0)
    assert not first_difference(parent, {**parent, "c": beaten}, with_data=True)
    assert first_difference(parent, {**parent, "c": winner}, with_data=True)


def test_a_run_that_is_not_there_is_a_difference() -> None:
    parent = {"r": Journal("r", "r", 1, (), (), 0)}
    child = Journal("r/c#1-0", "r/c#1-0", 1, (), (), 0)
    assert first_difference(parent, {**parent, "c": child}, with_data=True) == (
        "run 'r/c#1-0' is there, and without a crash it is not there"
    )
    left = {"r": Journal("r", "r", 1, (), (), 1)}
    assert first_difference(parent, left, with_data=True) == (
        "1 messages were not used up, and without a crash 0"
    )
