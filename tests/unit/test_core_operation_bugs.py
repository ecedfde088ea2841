"""What holds for every run whose bodies have a lot to ask for; and bugs, each of which that property finds.

What is planted elsewhere in the core is in `test_core_properties`.
"""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from holdfast.core import children, operations, steps
from holdfast.core import decide as deciding
from holdfast.core import evolve as evolving
from holdfast.core import header as headers
from holdfast.core import operated as operating
from holdfast.core import turn as turns
from holdfast.core.clocks import pending
from holdfast.core.entries import (
    DELETED,
    Entry,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunFailed,
    ScopesClosed,
    StepCompleted,
    StepSuspended,
)
from holdfast.core.events import AttemptSuspended, ChildEnded, SignalArrived, TimerFired
from holdfast.core.run import NO_OPERATIONS, NO_VARIABLES, Branch, Operation, Run, is_moment, place_of
from holdfast.definition.workflow import Workflow
from tests.unit.core_stories import MANY_NUMBERS, Story, bodies, changed
from tests.unit.test_core_properties import (
    SEARCH,
    Plant,
    after,
    in_decide,
    in_each,
    in_evolve,
    in_header,
    in_owed,
    in_snapshot,
    instead_of,
)


@pytest.fixture(autouse=True, scope="module")
def _short_journals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (deciding, steps, turns):
            patch.setattr(module, "JOURNAL_ENTRIES_MAX", JOURNAL_MAX, raising=False)
        yield


def property_of_every_body(workflow: Workflow, numbers: list[int]) -> None:
    Story(workflow, numbers, is_talkative=True).tell_all()


@settings(max_examples=4 * settings().max_examples)
@given(bodies(), MANY_NUMBERS)
def test_every_body_keeps_the_invariants_to_the_end_of_its_run(workflow: Workflow, numbers: list[int]) -> None:
    """Semantics section 6, rows 23, 28 to 34, 52 and 56; invariants 4, 5, 14 to 16, 19 to 27, 29, 31 and 36."""
    property_of_every_body(workflow, numbers)


# planted bugs


def sleeps_on(patch: pytest.MonkeyPatch) -> None:
    """Whoever was put away stays so, whatever comes."""
    right = operating.operated

    def operated(run: Run, entry: operating.Operated, at_ms: int) -> None:
        branch = run.branches[entry.branch]
        was_suspended = branch.status == "suspended"
        right(run, entry, at_ms)
        if was_suspended:
            run.active -= not run.holds(branch)
            branch.status = "suspended"

    patch.setattr(evolving, "operated", operated)


def keeps_what_was_awaited(run: Run, branch: Branch, entry: ScopesClosed) -> None:
    """Forgets the operations, but not what they waited for."""
    for operation in operating.within(branch, entry.key, entry.ended):
        del branch.operations[operation.key]
    operating._operation(run, branch, entry.key, "scopes").ended = entry.ended


def forgets_what_ran_beside(run: Run, branch: Branch, key: str) -> None:
    culprit = branch.operations.get(key)
    for operation in [*branch.operations.values()] if culprit is not None else []:
        if culprit is not None and operation.position >= culprit.position:
            operating._settle(run, branch, operation)
            del branch.operations[operation.key]


def forgets_only_the_culprit(run: Run, branch: Branch, key: str) -> None:
    if key in branch.operations:
        operating._settle(run, branch, branch.operations.pop(key))


def takes_other_work_for_work_beside(key: str, other: str) -> bool:
    mine, theirs = key.split("/")[:-1], other.split("/")[:-1]
    return any(one != another for one, another in zip(mine, theirs, strict=False))


def keeps_parts_of_closed_scopes(branch: Branch, key: str, ended: tuple[int, ...]) -> list[Operation]:
    return [each for each in RIGHT_WITHIN(branch, key, ended) if each.key.count("/") == 2]


def passes_no_cancel_down(run: Run, then: Run, entries: list[Entry]) -> list[object]:
    return [each for each in RIGHT_PASSED(run, then, entries) if not isinstance(each[1], RunCancelled)]


def starts_all(_run: Run, entries: list[Entry]) -> list[str]:
    begun = [each for each in entries if isinstance(each, OperationBegun) and each.child is not None]
    return [place_of(each.branch, each.key) for each in begun]


def puts_away_in_any_case(turn: turns.Turn, event: AttemptSuspended) -> None:
    branch = turn.current(event)
    if branch is not None and branch.status != "suspended" and event.awaited:
        turn.entries.append(StepSuspended(event.branch, event.step, event.visit))


def fires_for_who_is_gone(turn: turns.Turn, event: TimerFired) -> None:
    moved, turn.moved = turn.moved, ()
    RIGHT_TIMER(turn, event)
    turn.moved += moved


def gives_children_to_whoever(turn: turns.Turn, event: ChildEnded) -> None:
    branch = turn.run.branches.get(event.branch)
    known = None if branch is None else branch.operations.get(event.key)
    child = event.child if known is None or known.child is None else known.child.id
    RIGHT_CHILD(turn, changed(event, child=child))


def loses_the_message(turn: turns.Turn, place: str, event: SignalArrived) -> None:
    RIGHT_SIGNAL(turn, place, changed(event, seq=0))


def stops_also_what_is_named(timed: Branch | Operation, at_ms: int) -> None:
    if isinstance(timed, Operation) and is_moment(timed) and timed.due_at_ms is not None:
        timed.left_ms, timed.due_at_ms = timed.due_at_ms - at_ms, None
        return
    RIGHT_STOP(timed, at_ms)


def keeps_children(run: Run, branch: Branch, at_ms: int) -> None:
    for operation in pending(branch):
        evolving.start_clock(operation, at_ms)
        operating.await_operation(run, branch, operation)


def keeps_what_is_deleted(run: Run, entry: StepCompleted) -> None:
    sets = {name: payload for name, payload in entry.sets.items() if payload == DELETED}
    run.branches[entry.branch].variables |= sets


def seen_at_once(run: Run, entry: OperationCompleted) -> None:
    branch = run.branches[entry.branch]
    branch.variables = {**branch.variables, **entry.sets}


def does_not_count(run: Run, entry: OperationRetried) -> None:
    run.branches[entry.branch].operations[entry.key].budgets.clear()


def is_a_later_one(run: Run, entry: Entry, _at_ms: int) -> None:
    if isinstance(entry, OperationFailed):
        operation = run.branches[entry.branch].operations[entry.key]
        operation.position = run.position


def beats_on(run: Run, entry: Reported) -> None:
    for operation in run.branches[entry.branch].operations.values():
        operation.heartbeat = entry.payload


RIGHT_WITHIN, RIGHT_PASSED = operating.within, children.passed_down
RIGHT_TIMER, RIGHT_CHILD, RIGHT_SIGNAL = (
    operations.timer_fired,
    operations.child_ended,
    operations.signal_arrived,
)
RIGHT_STOP = evolving.stop_clock
JOURNAL_MAX = 40
LONG_SEARCH = settings(SEARCH, max_examples=4_000)
BUGS: dict[str, Plant] = {
    "a body that was put away is not woken": sleeps_on,
    "the clocks of closed scopes run on": instead_of(operating, "_closed", keeps_what_was_awaited),
    "scopes within closed ones stay": instead_of(operating, "within", keeps_parts_of_closed_scopes),
    "what other parallel work gave later is kept": instead_of(
        operating, "_is_beside", takes_other_work_for_work_beside
    ),
    "a turn does not know what it has closed": instead_of(operations, "within", lambda *_: []),
    "what a closed scope says counts": instead_of(operations, "_is_gone", lambda *_: False),
    "a culprit is not forgotten": instead_of(evolving, "forget_from", lambda *_: None),
    "a culprit is forgotten alone": instead_of(evolving, "forget_from", forgets_only_the_culprit),
    "what ran beside a culprit is forgotten too": instead_of(evolving, "forget_from", forgets_what_ran_beside),
    "an operation is as old as its end": in_evolve(is_a_later_one),
    "a pause does not stop the clocks of operations": instead_of(evolving, "pending", lambda _: []),
    "a pause moves a named moment of an operation": instead_of(
        evolving, "stop_clock", stops_also_what_is_named
    ),
    "what is asked for under a pause runs on": instead_of(operating, "is_frozen", lambda *_: False),
    "operations outlive their step": instead_of(evolving, "forget_all", lambda *_: None),
    "what a step has set outlives it": in_evolve(
        lambda run, entry, _: (
            setattr(run.branches[entry.branch], "sets", entry.sets)
            if isinstance(entry, StepCompleted)
            else None
        )
    ),
    "what a body sets is seen at once": after(OperationCompleted, seen_at_once),
    "a deleted variable is empty": after(StepCompleted, keeps_what_is_deleted),
    "a retry of an operation does not count": after(OperationRetried, does_not_count),
    "a retry of an operation has the number of the attempt that failed": in_each(
        OperationRetried, lambda entry: changed(entry, attempt=entry.attempt - 1)
    ),
    "a body that is put away is not recorded": in_decide(
        lambda _, entries: [each for each in entries if not isinstance(each, StepSuspended)]
    ),
    "a body is put away whatever has come": instead_of(operations, "attempt_suspended", puts_away_in_any_case),
    "a body that was put away still owes its attempt": after(
        StepSuspended, lambda run, entry: setattr(run.branches[entry.branch], "status", "active")
    ),
    "a timer fires for an operation that is gone": instead_of(operations, "timer_fired", fires_for_who_is_gone),
    "the outcome of any child counts": instead_of(operations, "child_ended", gives_children_to_whoever),
    "a message that a body received stays in the inbox": instead_of(
        operations, "signal_arrived", loses_the_message
    ),
    "a reopened run waits for its old children": instead_of(evolving, "take_up", keeps_children),
    "a reopened run does not wait for what its bodies waited for": instead_of(
        evolving, "take_up", lambda *_: None
    ),
    "a run that is over still awaits signals": instead_of(evolving, "put_away", lambda *_: None),
    "a failed run does not know its culprit": after(
        RunFailed, lambda run, _: [setattr(each, "culprit", "") for each in run.branches.values()]
    ),
    "a retry does not name its culprit": in_each(RetryScheduled, lambda entry: changed(entry, operation="")),
    "a blocked run goes on": after(RunBlocked, lambda run, _: setattr(run, "blocked", None)),
    "the header's short way takes a backoff for an attempt": instead_of(
        headers, "_OPERATING", frozenset({"active", "suspended", "backoff"})
    ),
    "the header shares operations with the run": instead_of(headers, "_copy_operations", lambda *_: None),
    "the header does not see what begins": in_header(sees=lambda entry: not isinstance(entry, OperationBegun)),
    "the header does not see who is put away": in_header(
        sees=lambda entry: not isinstance(entry, StepSuspended)
    ),
    "the header does not see late signals": in_header(times_out=False),
    "a child is not told of a cancel": instead_of(children, "passed_down", passes_no_cancel_down),
    "a child starts whatever becomes of it": instead_of(children, "started", starts_all),
    "a cancelled child gives nothing": instead_of(children, "CANCELLED", ""),
    "a commit forgets the timers of operations": in_owed(
        "owed_after", lambda _, effects: [each for each in effects if not getattr(each, "key", "")]
    ),
    "a recovery forgets the timers of operations": in_owed(
        "owed", lambda _, effects: [each for each in effects if not getattr(each, "key", "")]
    ),
    "a snapshot forgets operations": in_snapshot(lambda branch: setattr(branch, "operations", NO_OPERATIONS)),
    "a snapshot forgets what was set": in_snapshot(lambda branch: setattr(branch, "sets", NO_VARIABLES)),
    "a snapshot forgets the culprit": in_snapshot(lambda branch: setattr(branch, "culprit", "")),
    "a snapshot forgets reports": in_snapshot(lambda branch: setattr(branch, "heartbeat", None)),
    "a report is for all operations": after(Reported, beats_on),
}


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_a_planted_bug_about_operations_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug that survives fails: then the property does not say what it should."""
    search = LONG_SEARCH(given(bodies(), MANY_NUMBERS)(property_of_every_body))
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, IndexError)):
        search()
