"""`explain`: exactly one reason for every state that a run can be in (rows 35 and 55, invariant 32)."""

import typing
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given

from holdfast.core import decide as deciding
from holdfast.core import steps, turn
from holdfast.core.entries import (
    Arrival,
    Child,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationRetried,
    Paused,
    RetryScheduled,
    RunBlocked,
    RunStarted,
    StepCompleted,
    StepSuspended,
    Unpaused,
    Wait,
)
from holdfast.core.evolve import replay
from holdfast.core.run import OPEN, PENDING, Run, place_of
from holdfast.definition.workflow import Workflow
from holdfast.runtime.explain import Explanation, Reason, explain
from holdfast.runtime.views import waiting_of
from holdfast.stores.records import ENDED, RunRecord, WorkerRecord
from tests.unit.core_stories import JOURNAL_MAX, NUMBERS, Story, workflows

HERE, ELSEWHERE = WorkerRecord("w1", ("w",)), WorkerRecord("w2", ("other",))
BY_ITSELF = {"over", "running", "timer", "backoff", "join", "due"}
"""Reasons for which nobody must act, where a worker knows the workflow."""
ORDER = ["pause", "signal", "child", "timer", "backoff", "join"]


def record_of(run: Run, *, worker: str | None = None, status: str | None = None) -> RunRecord:
    """The row of a run, which says what its fold says (invariant 4)."""
    return RunRecord(
        key=1,
        id="r",
        incarnation=1,
        epoch=1,
        position=run.position,
        status=run.status if status is None else status,
        workflow=run.workflow,
        fingerprint=run.fingerprint,
        queue="default",
        priority=3,
        tags=(),
        worker=worker,
        due_at_ms=None if run.is_over else run.due_at_ms,
        messages_sent=0,
        recoveries=0,
        input_digest=b"",
        parent_key=None,
        parent_incarnation=0,
        parent_step=None,
        created_at_ms=run.created_at_ms,
        updated_at_ms=run.updated_at_ms,
    )


def explained(run: Run) -> Iterator[tuple[Explanation, bool]]:
    """Every way in which its row may stand, and whether it goes on by itself then."""
    if run.blocked is not None:
        found = explain(record_of(run), run, [HERE], 0, why_blocked=run.blocked.detail)
        assert (found.reason, found.detail) == ("blocked", run.blocked.detail)
        yield found, False
        return
    due = run.due_at_ms
    is_over, is_due_ever = run.is_over, due is not None
    for worker, workers in (
        ("w1", [HERE]),
        ("w1", [ELSEWHERE]),
        ("w1", []),
        (None, [HERE]),
        (None, [ELSEWHERE]),
    ):
        is_alive = HERE in workers
        for now_ms in {0, due or 0, run.updated_at_ms}:
            found = explain(record_of(run, worker=worker), run, workers, now_ms)
            assert found.reason != "blocked"
            yield found, is_over or (is_alive and is_due_ever)
    if not is_over:
        record = record_of(run)
        yield explain(record, run, [HERE], due or 0, missing_tasks=["t1"]), False
        blocked = explain(record_of(run, status="blocked"), None, [HERE], 0, why_blocked="damaged")
        assert (blocked.reason, blocked.detail) == ("blocked", "damaged")
        yield blocked, False


@pytest.fixture(autouse=True, scope="module")
def _short_journals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (deciding, steps, turn):
            patch.setattr(module, "JOURNAL_ENTRIES_MAX", JOURNAL_MAX, raising=False)
        yield


def property_of_every_state(workflow: Workflow, numbers: list[int]) -> None:
    story = Story(workflow, numbers)
    story.tell_all()
    for position in story.commits:
        run = story.recovered(position)
        for found, goes_on in explained(run):
            assert found.reason in typing.get_args(Reason)
            assert found.detail.strip()
            assert (found.reason == "over") == (run.status in ENDED)
            assert found.action or (goes_on and found.reason in BY_ITSELF), "who must act is told"
            assert found.run_id == "r"
        waits_in_order(run)


def waits_in_order(run: Run) -> None:
    """Row 35: one line for each branch that does not work, the dominant first, of these the earliest due.

    Of a branch that waits for operations of its body, one for each of these.
    """
    waits = waiting_of(run)
    places: list[tuple[str, str]] = []
    for branch in run.branches.values():
        if branch.status == "suspended" and not run.holds(branch):
            keys = [key for key, each in branch.operations.items() if each.status in PENDING]
            assert keys, "a body that is put away waits for something"
            places += [(branch.id, key) for key in keys]
        elif branch.status in OPEN and (branch.status != "active" or run.holds(branch)):
            places.append((branch.id, ""))
    assert sorted((wait.branch, wait.operation) for wait in waits) == sorted(places)
    reasons = [ORDER.index(wait.reason) for wait in waits]
    assert reasons == sorted(reasons)
    for reason in ORDER:
        dues = [wait.due_at for wait in waits if wait.reason == reason]
        known = [due for due in dues if due is not None]
        assert dues == [*sorted(known), *[None] * (len(dues) - len(known))]
    for wait in waits:
        branch = run.branches[wait.branch]
        timed = branch.operations[wait.operation] if wait.operation else branch
        assert wait.detail
        assert (wait.due_at is None) == (timed.due_at_ms is None)
        assert (wait.reason == "pause") == run.holds(branch)
        place = place_of(wait.branch, wait.operation)
        assert wait.signal == (run.waits[place] if wait.reason == "signal" else None)
        assert wait.child == (run.children[place].id if wait.reason == "child" else None)


@given(workflows(), NUMBERS)
def test_there_is_one_reason_for_every_state(workflow: Workflow, numbers: list[int]) -> None:
    """Rows 35 and 55, invariant 32: total, over all states that the stories of the core come to."""
    property_of_every_state(workflow, numbers)


# examples, word for word


def started(*arrivals: Arrival, timeout_ms: int | None = None) -> list[tuple[Entry, int]]:
    return [(RunStarted("w", "52c07e784e31bb37", b"json.1:1", arrivals, timeout_ms), 1_000)]


def asleep(branch: str = "main", for_ms: int = 5_000) -> Arrival:
    return Arrival(branch, "nap", 1, "sleep", None, Wait("", for_ms))


def waits_for(branch: str = "main", for_ms: int | None = None) -> Arrival:
    return Arrival(branch, "w", 1, "wait_signal", None, Wait("go", for_ms))


def joining(branch: str) -> Arrival:
    return Arrival(branch, "gather", 1, "join", "main")


WORK = Arrival("main", "work", 1)
RETRIED: tuple[Entry, int] = (
    RetryScheduled("main", "work", 1, 2, 9_000, "all", Failure("E", "no", step="work")),
    2_000,
)
PAUSED: tuple[Entry, int] = (Paused("", "look", "ops"), 3_000)
MAIN = ("main", "work", 1)
NAP: tuple[Entry, int] = (OperationBegun(*MAIN, "sleep#1", "sleep", Wait("", 60_000)), 2_000)
GO: tuple[Entry, int] = (OperationBegun(*MAIN, "go#1", "wait_signal", Wait("go", 30_000)), 2_000)
STARTED: tuple[Entry, int] = (OperationBegun(*MAIN, "w2#1", "child", None, Child("r/w2", "w2")), 2_000)
TRIED: tuple[Entry, int] = (
    OperationRetried(*MAIN, "pay#1", 3, 9_000, "all", Failure("E", "no", step="pay")),
    2_000,
)
SUSPENDED: tuple[Entry, int] = (StepSuspended(*MAIN), 3_000)
EXAMPLES: dict[str, tuple[list[tuple[Entry, int]], Explanation]] = {
    "timer": (
        started(asleep()),
        Explanation(
            run_id="r",
            status="suspended",
            reason="timer",
            detail=(
                "branch 'main' at step 'nap' sleeps since 1970-01-01 00:00:01 UTC, "
                "until 1970-01-01 00:00:06 UTC"
            ),
            action="",
            branch="main",
            step="nap",
            due_at=datetime(1970, 1, 1, 0, 0, 6, tzinfo=UTC),
        ),
    ),
    "signal": (
        started(waits_for()),
        Explanation(
            run_id="r",
            status="suspended",
            reason="signal",
            detail="branch 'main' at step 'w' waits for signal 'go', since 1970-01-01 00:00:01 UTC",
            action="send signal 'go'; it waits for ever",
            branch="main",
            step="w",
        ),
    ),
    "backoff": (
        [*started(WORK), RETRIED],
        Explanation(
            run_id="r",
            status="suspended",
            reason="backoff",
            detail=(
                "branch 'main' at step 'work' waits for attempt 2 after E in step 'work': no, "
                "until 1970-01-01 00:00:11 UTC"
            ),
            action="",
            branch="main",
            step="work",
            due_at=datetime(1970, 1, 1, 0, 0, 11, tzinfo=UTC),
        ),
    ),
    "pause": (
        [*started(WORK), PAUSED],
        Explanation(
            run_id="r",
            status="paused",
            reason="pause",
            detail="branch 'main' at step 'work' paused by ops: look, since 1970-01-01 00:00:03 UTC",
            action="unpause it",
            branch="main",
            step="work",
        ),
    ),
    "child": (
        [*started(WORK), NAP, STARTED, SUSPENDED],
        Explanation(
            run_id="r",
            status="suspended",
            reason="child",
            detail=(
                "branch 'main' at step 'work' waits for child run 'r/w2' of workflow 'w2', "
                "since 1970-01-01 00:00:02 UTC"
            ),
            action="explain run 'r/w2'",
            branch="main",
            step="work",
            operation="w2#1",
            child="r/w2",
        ),
    ),
    "signal of a body": (
        [*started(WORK), NAP, STARTED, GO, SUSPENDED],
        Explanation(
            run_id="r",
            status="suspended",
            reason="signal",
            detail=(
                "branch 'main' at step 'work' waits for signal 'go', since 1970-01-01 00:00:02 UTC, "
                "until 1970-01-01 00:00:32 UTC"
            ),
            action="send signal 'go'",
            branch="main",
            step="work",
            operation="go#1",
            due_at=datetime(1970, 1, 1, 0, 0, 32, tzinfo=UTC),
        ),
    ),
    "due": (
        started(WORK),
        Explanation(
            run_id="r",
            status="running",
            reason="due",
            detail="it is due, and the next worker with a free slot takes it",
            action="",
            due_at=datetime(1970, 1, 1, 0, 0, 4, tzinfo=UTC),
        ),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_reason_is_a_sentence_for_people(name: str) -> None:
    entries, expected = EXAMPLES[name]
    run = replay("r", entries)
    assert explain(record_of(run), run, [HERE], 4_000) == expected


@pytest.mark.parametrize(
    ("workers", "reason", "words"),
    [
        ([HERE], "running", "worker w1 makes attempt 1 of step 'work'"),
        ([], "lease", "shows no sign of life"),
        ([ELSEWHERE], "lease", "shows no sign of life"),
    ],
)
def test_a_run_that_is_held_is_as_good_as_its_worker(
    workers: list[WorkerRecord], reason: str, words: str
) -> None:
    run = replay("r", started(WORK))
    found = explain(record_of(run, worker="w1"), run, workers, 4_000)
    assert found.reason == reason
    assert words in found.detail


def test_a_run_with_a_time_out_waits_for_nothing_for_ever() -> None:
    """Row 55: it goes on by itself when that is over."""
    run = replay("r", started(waits_for(), timeout_ms=30_000))
    found = explain(record_of(run), run, [HERE], 4_000)
    assert found.reason == "signal"
    assert "for ever" not in found.action


@pytest.mark.parametrize("arrival", [waits_for(), asleep()], ids=["signal", "timer"])
def test_a_run_that_waits_and_that_nobody_knows_needs_a_worker_too(arrival: Arrival) -> None:
    run = replay("r", started(arrival))
    found = explain(record_of(run), run, [ELSEWHERE], 4_000)
    assert "start a worker" in found.action
    assert explain(record_of(run), run, [HERE], 4_000).action != found.action


def test_a_sleep_that_is_over_is_due() -> None:
    run = replay("r", started(asleep()))
    assert explain(record_of(run), run, [HERE], 6_000).reason == "due"
    assert explain(record_of(run), run, [ELSEWHERE], 6_000).reason == "no_worker"
    missing = explain(record_of(run), run, [HERE], 6_000, missing_tasks=["charge", "ship"])
    assert missing.reason == "missing_task"
    assert "calls charge, ship" in missing.detail
    assert "deploy charge, ship again" in missing.action


def test_what_dominates_comes_first() -> None:
    """Row 35: paused, then signal, then timer; of equal reasons the earliest."""
    arrivals = (
        joining("a"),
        asleep("b", 9_000),
        asleep("c", 4_000),
        waits_for("d"),
        waits_for("e", 8_000),
        Arrival("f", "work", 1, "task", "main"),
        Arrival("g", "work", 1, "task", "main"),
        Arrival("h", "work", 1, "task", "main"),
    )
    retried: tuple[Entry, int] = (RetryScheduled("f", "work", 1, 2, 60_000, "all", Failure("E", "no")), 2_000)
    run = replay("r", [*started(*arrivals), retried, (Paused("g", "", "", freezes=True), 3_000)])
    waits = waiting_of(run)
    assert [(wait.reason, wait.branch) for wait in waits] == [
        ("pause", "g"),
        ("signal", "e"),
        ("signal", "d"),
        ("timer", "c"),
        ("timer", "b"),
        ("backoff", "f"),
        ("join", "a"),
    ]
    assert explain(record_of(run, worker="w1"), run, [HERE], 4_000).branch == "h"


def test_a_join_waits_for_branches_that_are_named() -> None:
    run = replay("r", started(joining("a"), asleep("b"), waits_for("c")))
    wait = next(wait for wait in waiting_of(run) if wait.reason == "join")
    assert wait.detail.endswith("still open: b, c")


def test_a_branch_is_paused_since_it_was_paused() -> None:
    """Row 35: not since it came to where it is."""
    run = replay("r", [*started(asleep("b"), waits_for("c")), (Paused("b", "", "ops"), 3_000)])
    assert waiting_of(run)[0].since == datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)


def test_a_branch_that_is_paused_at_work_is_not_paused_since_the_start() -> None:
    """Row 35."""
    entries: list[tuple[Entry, int]] = [
        *started(WORK),
        (StepCompleted("main", "work", 1, 1, b"json.1:1", (Arrival("main", "more", 1),)), 60_000),
        (Paused("main", "", "ops"), 61_000),
    ]
    run = replay("r", entries)
    assert waiting_of(run)[0].since == datetime(1970, 1, 1, 0, 1, 1, tzinfo=UTC)


def test_a_run_that_is_unpaused_waits_as_before() -> None:
    unpaused: tuple[Entry, int] = (Unpaused("", "ops"), 4_000)
    run = replay("r", [*started(waits_for()), PAUSED, unpaused])
    assert [wait.reason for wait in waiting_of(run)] == ["signal"]


@pytest.mark.parametrize("status", ["pending", "running", "suspended", "paused", "blocked", "completed"])
def test_a_child_that_is_waited_for_says_how_it_is(status: str) -> None:
    """Row 55: its row is all that is read of it; explaining it tells more."""
    run = replay("r", [*started(WORK), STARTED, SUSPENDED])
    child = msgspec.structs.replace(record_of(run), id="r/w2", status=status)
    for worker in (None, "w1"):
        found = explain(record_of(run, worker=worker), run, [HERE], 4_000, child=child)
        assert f"for child run 'r/w2' of workflow 'w2', which is {status}, since" in found.detail
        assert (found.reason, found.action, found.child) == ("child", "explain run 'r/w2'", "r/w2")
    other = msgspec.structs.replace(child, id="r/w9")
    assert "which is" not in explain(record_of(run), run, [HERE], 4_000, child=other).detail


def test_a_body_that_goes_on_is_at_work_whatever_else_it_waits_for() -> None:
    """Rows 35 and 55."""
    received: tuple[Entry, int] = (OperationCompleted(*MAIN, "go#1", "wait_signal", b"json.1:1", 1), 4_000)
    run = replay("r", [*started(WORK), NAP, GO, SUSPENDED, received])
    assert explain(record_of(run), run, [HERE], 5_000).reason == "due"
    assert explain(record_of(run), run, [ELSEWHERE], 5_000).reason == "no_worker"
    found = explain(record_of(run, worker="w1"), run, [HERE], 5_000)
    assert (found.reason, found.detail) == ("running", "worker w1 makes attempt 1 of step 'work'")


@pytest.mark.parametrize(("now_ms", "reason"), [(10_999, "timer"), (11_000, "running")])
def test_a_retry_that_has_begun_is_an_attempt_whatever_is_recorded(now_ms: int, reason: str) -> None:
    """Row 55: what a body asked for is in backoff until the outcome of its next attempt is recorded."""
    run = replay("r", [*started(WORK), NAP, TRIED, SUSPENDED])
    found = explain(record_of(run, worker="w1"), run, [HERE], now_ms)
    assert found.reason == reason
    if reason == "running":
        assert found.detail == "worker w1 makes attempt 3 of 'pay#1' of step 'work'"
        assert (found.branch, found.step, found.operation) == ("main", "work", "pay#1")


def test_code_that_has_changed_is_told_with_what_can_be_done() -> None:
    """Rows 55 and 56: what was expected and what was found, where the journal tells."""
    detail = "step 'work' expected step pay#1, and found step charge#1"
    blocked = RunBlocked("main", "work", 1, "definition_changed", detail)
    run = replay("r", [*started(WORK), NAP, (blocked, 3_000)])
    found = explain(record_of(run), run, [HERE], 4_000, why_blocked=detail)
    assert (found.reason, found.status, found.detail) == ("blocked", "blocked", detail)
    assert (found.branch, found.step) == ("main", "work")
    for word in ("deploy code that fits", "ctx.patched", "holdfast resume", "holdfast cancel"):
        assert word in found.action
    quarantined = explain(record_of(run), run, [HERE], 4_000, why_blocked="quarantined")
    assert (quarantined.detail, quarantined.branch) == ("quarantined", "")
    assert "deploy" not in quarantined.action
