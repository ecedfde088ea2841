"""What holds for every run, whatever happens to it.

Invariants 4, 5, 14, 15, 16, 19, 20, 23, 24, 26, 27, 29 and 31. `core_stories` makes random workflows and lets a
run of each go to its end, under the eyes of a model. Below, bugs are planted in the core one at a time: the
property counts because it finds each of them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from holdfast.codecs import snapshots
from holdfast.core import control, edges, joins, steps, waits
from holdfast.core import decide as deciding
from holdfast.core import evolve as evolving
from holdfast.core import header as headers
from holdfast.core import owed as owing
from holdfast.core import turn as turns
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    Moved,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    Unpaused,
    WaitTimedOut,
)
from holdfast.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    DeadlinePassed,
    Event,
    SignalArrived,
    TimerFired,
)
from holdfast.core.run import OWING, Branch, Run
from holdfast.definition.workflow import Workflow
from tests.unit.core_stories import INPUT, JOURNAL_MAX, NUMBERS, Story, changed, workflows

T = TypeVar("T")
SEARCH = settings(
    max_examples=600,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    derandomize=True,
    suppress_health_check=[*HealthCheck],
)


def property_of_every_run(workflow: Workflow, numbers: list[int]) -> None:
    Story(workflow, numbers).tell_all()


@pytest.fixture(autouse=True, scope="module")
def _short_journals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (deciding, steps, turns):
            patch.setattr(module, "JOURNAL_ENTRIES_MAX", JOURNAL_MAX, raising=False)
        yield


@settings(max_examples=4 * settings().max_examples)
@given(workflows(), NUMBERS)
def test_every_run_keeps_the_invariants_to_its_end(workflow: Workflow, numbers: list[int]) -> None:
    """Rows 8, 9, 16, 18 to 20, 23, 28 to 33 and 52; the invariants named above."""
    property_of_every_run(workflow, numbers)


# planted bugs

Plant = Callable[[pytest.MonkeyPatch], None]


def in_decide(change: Callable[[Run, list[Entry]], list[Entry]]) -> Plant:
    """What is decided is changed; `change` sees the run before, and the right entries."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = deciding.decide

        def decide(workflow: Workflow, run: Run, events: Sequence[Event]) -> list[Entry]:
            return change(run, right(workflow, run, events))

        patch.setattr(deciding, "decide", decide)

    return plant


def in_evolve(change: Callable[[Run, Entry, int], None]) -> Plant:
    """After the right change, a wrong one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = evolving.evolve

        def evolve(run: Run, entry: Entry, at_ms: int) -> None:
            right(run, entry, at_ms)
            change(run, entry, at_ms)

        patch.setattr(evolving, "evolve", evolve)

    return plant


def in_header(*, sees: Callable[[Entry], bool] = lambda _: True, **says: object) -> Plant:
    """The header is told from some of the entries only, or says something of its own."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = headers.header_after

        def header_after(run: Run, entries: list[Entry]) -> headers.Header:
            return changed(right(run, [entry for entry in entries if sees(entry)]), **says)

        patch.setattr(headers, "header_after", header_after)

    return plant


def in_snapshot(change: Callable[[Branch], object]) -> Plant:
    """Something is lost of a branch on its way through a snapshot."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = snapshots.decode_run

        def decode_run(run_id: str, data: bytes) -> Run | None:
            run = right(run_id, data)
            for branch in run.branches.values() if run is not None else ():
                change(branch)
            return run

        patch.setattr(snapshots, "decode_run", decode_run)

    return plant


def in_snapshot_of_run(name: str, value: object) -> Plant:
    """A fact of the run itself is lost on its way through a snapshot."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = snapshots.decode_run

        def decode_run(run_id: str, data: bytes) -> Run | None:
            run = right(run_id, data)
            if run is not None:
                setattr(run, name, value)
            return run

        patch.setattr(snapshots, "decode_run", decode_run)

    return plant


def in_owed(name: str, change: Callable[[Run, list[Effect]], list[Effect]]) -> Plant:
    """What a run owes is told wrongly."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = getattr(owing, name)

        def owed(run: Run, *entries: object) -> list[Effect]:
            return change(run, right(run, *entries))

        patch.setattr(owing, name, owed)

    return plant


def instead_of(owner: object, name: str, wrong: object) -> Plant:
    """One function is another."""
    return lambda patch: patch.setattr(owner, name, wrong)


def in_each(kind: type[T], change: Callable[[T], Entry]) -> Plant:
    """All entries of a kind are recorded with a change."""
    return in_decide(lambda _, entries: [change(each) if isinstance(each, kind) else each for each in entries])


def with_arrivals(change: Callable[[Arrival], Arrival]) -> Callable[[list[Entry]], list[Entry]]:
    def changes(entries: list[Entry]) -> list[Entry]:
        return [
            changed(entry, arrivals=tuple([change(each) for each in entry.arrivals]))
            if isinstance(entry, RunStarted | Moved)
            else entry
            for entry in entries
        ]

    return changes


def after(kind: type[T], change: Callable[[Run, T], object]) -> Plant:
    """A wrong change of the state after each entry of a kind."""

    def evolved(run: Run, entry: Entry, _at_ms: int) -> None:
        if isinstance(entry, kind):
            change(run, entry)

    return in_evolve(evolved)


def without(kind: type[Entry]) -> Plant:
    return in_decide(lambda _, entries: [each for each in entries if not isinstance(each, kind)])


def accepts_the_stale(turn: turns.Turn, event: AttemptSucceeded | AttemptFailed) -> Branch | None:
    branch = turn.run.branches.get(event.branch)
    return branch if branch is not None and branch.status in OWING else None


def sees_only_what_was_before(turn: turns.Turn, name: str) -> bool:
    branch = turn.run.branches.get(name)
    return branch is not None and branch.status == "completed"


def shares_variables(run: Run, entry: StepCompleted) -> None:
    for each in entry.arrivals:
        run.branches[each.branch].variables = run.branches[entry.branch].variables


def keeps_joining(run: Run, entry: BranchJoined) -> None:
    run.joining[entry.branch] = None


def forgets_budget(run: Run, entry: RetryScheduled) -> None:
    run.branches[entry.branch].budgets.clear()


def keeps_budget(run: Run, entry: StepCompleted) -> None:
    run.branches[entry.branch].budgets["all"] = 2


def keeps_attempt(run: Run, entry: StepCompleted) -> None:
    run.branches[entry.branch].attempt = entry.attempt


def keeps_backoff(run: Run, entry: RetryScheduled) -> None:
    for branch in run.branches.values():
        if branch.status == "completed":
            run.timers[branch.id] = entry.delay_ms


def forgets_open(run: Run, entry: StepCompleted) -> None:
    run.open -= len(entry.arrivals) > 1


def leads_on_without_value(run: Run, entry: StepCompleted, at_ms: int) -> Arrival:
    value = run.branches[entry.branch].value
    arrival = RIGHT_STRAIGHT_ON(run, entry, at_ms)
    run.branches[entry.branch].value = value
    return arrival


def forgets_stamp(run: Run, entry: RetryScheduled) -> None:
    if entry.branch in run.timers:
        run.branches[entry.branch].due_at_ms = run.timers[entry.branch] = entry.delay_ms


def forgets_value(run: Run, entry: StepCompleted) -> None:
    for each in entry.arrivals:
        if each.parent is not None:
            run.branches[each.branch].value = run.input


def forgets_siblings(run: Run, _entry: RunFailed) -> None:
    for branch in run.branches.values():
        if branch.status == "cancelled":
            branch.status = "active"


def depends_on_the_process(run: Run, entry: RetryScheduled) -> None:
    if entry.branch in run.timers:
        run.timers[entry.branch] += next(CALLS)
        run.branches[entry.branch].due_at_ms = run.timers[entry.branch]


def changes_the_run(run: Run, entries: list[Entry]) -> list[Entry]:
    if run.branches:
        run.branches["main"].visits["x"] = 1
    return entries


def one_join_a_turn(_run: Run, entries: list[Entry]) -> list[Entry]:
    joined = [each for each in entries if isinstance(each, BranchJoined)]
    return [each for each in entries if each not in joined[1:]]


def terminal_first(_run: Run, entries: list[Entry]) -> list[Entry]:
    is_over = entries and isinstance(entries[-1], RunCompleted | RunFailed)
    return [entries[-1], *entries[:-1]] if is_over else entries


def counts_who_has_left(patch: pytest.MonkeyPatch) -> None:
    right = headers.header_after

    def header_after(run: Run, entries: list[Entry]) -> headers.Header:
        header = right(run, entries)
        is_waiting = header.status == "suspended" and run.timers
        return changed(header, due_at_ms=min(run.timers.values())) if is_waiting else header

    patch.setattr(headers, "header_after", header_after)


def goes_on_without_end(workflow: Workflow, run: Run, events: Sequence[Event]) -> list[Entry]:
    entries = RIGHT_DECIDE(workflow, run, events)
    limited = entries and isinstance(entries[-1], RunFailed) and entries[-1].branch == ""
    return entries[:-1] if limited else entries


def forgets_the_deadline_in_a_pause(run: Run, entry: Entry, at_ms: int) -> None:
    if isinstance(entry, Paused) and run.deadline_left_ms is not None:
        run.deadline_ms, run.deadline_left_ms = at_ms + run.deadline_left_ms, None


def starts_with_nothing_left(branch: Branch, at_ms: int) -> None:
    if branch.left_ms is not None:
        branch.due_at_ms, branch.left_ms = at_ms, None


def starts_where_it_was(branch: Branch, _at_ms: int) -> None:
    if branch.left_ms is not None:
        branch.due_at_ms, branch.left_ms = branch.since_ms + branch.left_ms, None


def stops_also_what_is_named(branch: Branch, at_ms: int) -> None:
    if branch.due_at_ms is not None:
        branch.left_ms, branch.due_at_ms = branch.due_at_ms - at_ms, None


def starts_unpaused(run: Run, entry: Entry, _at_ms: int) -> None:
    new = [run.branches[each.branch] for each in getattr(entry, "arrivals", ()) if each.parent is not None]
    for branch in new:
        branch.pause = None
    evolving.recount(run)


def keeps_timers(run: Run, _entry: RunFailed) -> None:
    run.timers = {branch.id: 5 for branch in run.branches.values() if branch.status == "cancelled"}


def leaves_one_open(run: Run, _entry: RunCancelled) -> None:
    for branch in run.branches.values():
        if branch.status == "cancelled":
            branch.status = "waiting"


def fires_whatever_is_due(turn: turns.Turn, event: TimerFired) -> None:
    branch = turn.run.branches.get(event.branch)
    if branch is not None and branch.due_at_ms is not None:
        event = changed(event, due_at_ms=branch.due_at_ms)
    RIGHT_TIMER(turn, event)


def gives_to_the_newest(turn: turns.Turn, event: SignalArrived) -> None:
    waits_for = turn.run.waits
    turn.run.waits = dict(reversed(waits_for.items()))
    RIGHT_SIGNAL(turn, event)
    turn.run.waits = waits_for


def gives_twice(turn: turns.Turn, event: SignalArrived) -> None:
    RIGHT_SIGNAL(turn, event)
    RIGHT_SIGNAL(turn, event)


def retries_with_what_is_left(run: Run, _entry: RunReopened) -> None:
    for branch in run.branches.values():
        branch.budgets = dict.fromkeys(["all", "E1", "timeout,E2", "task_failed"], 9)


def begins_again(run: Run, _entry: RunReopened) -> None:
    for branch in run.branches.values():
        branch.attempt = 1


def retries_without_a_bound(run: Run, _entry: RunReopened) -> None:
    run.deadline_ms = None


RIGHT_TIMER, RIGHT_SIGNAL, RIGHT_DEADLINE = waits.timer_fired, waits.signal_arrived, waits.deadline_passed
RIGHT_DECIDE = deciding.decide
RIGHT_STRAIGHT_ON = evolving.go_straight_on
CALLS = itertools.count()
BUGS: dict[str, Plant] = {
    "every visit is the first": in_decide(
        lambda _, entries: with_arrivals(lambda each: changed(each, visit=1))(entries)
    ),
    "a new branch does not say who started it": in_decide(
        lambda _, entries: with_arrivals(lambda each: changed(each, parent=None))(entries)
    ),
    "a retry has the number of the attempt that failed": in_each(
        RetryScheduled, lambda entry: changed(entry, attempt=entry.attempt - 1)
    ),
    "every retry is counted under one name": in_each(
        RetryScheduled, lambda entry: changed(entry, pattern="all")
    ),
    "a join takes all but the last": in_each(
        BranchJoined, lambda entry: changed(entry, joined=entry.joined[:-1])
    ),
    "variables are not recorded": in_each(StepCompleted, lambda entry: changed(entry, sets={})),
    "a step completes twice": in_decide(
        lambda _, entries: [*entries[:1], *entries] if type(entries[0]) is StepCompleted else entries
    ),
    "a run completes twice": in_decide(
        lambda _, entries: entries + entries[-1:] if type(entries[-1]) is RunCompleted else entries
    ),
    "a run never completes": without(RunCompleted),
    "a run never fails": without(RunFailed),
    "the end is recorded first": in_decide(terminal_first),
    "nobody is joined": without(BranchJoined),
    "a turn joins once": in_decide(one_join_a_turn),
    "a join misses who ended in the same turn": instead_of(joins, "_completed", sees_only_what_was_before),
    "a join counts who has not begun": instead_of(joins, "_missing", lambda *_: []),
    "the second at a join waits too": instead_of(edges, "_someone_waits", lambda *_: False),
    "nobody waits at a join": instead_of(edges, "_someone_waits", lambda *_: True),
    "the stale counts": instead_of(turns.Turn, "current", accepts_the_stale),
    "the stale counts on the short way": instead_of(
        steps, "straight_on", lambda *_: StepCompleted("main", "t1", 1, 1, INPUT, ())
    ),
    "the short way is for all": instead_of(steps, "is_plain", lambda *_: True),
    "the short way forgets the output": instead_of(evolving, "go_straight_on", leads_on_without_value),
    "a journal has no bound": instead_of(deciding, "decide", goes_on_without_end),
    "deciding changes the run": in_decide(changes_the_run),
    "a retry does not count its budget": after(RetryScheduled, forgets_budget),
    "a budget outlives its step": after(StepCompleted, keeps_budget),
    "an attempt number outlives its step": after(StepCompleted, keeps_attempt),
    "a backoff outlives its step": after(RetryScheduled, keeps_backoff),
    "a retry is due at its delay since the epoch": after(RetryScheduled, forgets_stamp),
    "a fork forgets who is open": after(StepCompleted, forgets_open),
    "who has joined still waits": after(BranchJoined, keeps_joining),
    "a branch begins with the input of the run": after(StepCompleted, forgets_value),
    "branches share their variables": after(StepCompleted, shares_variables),
    "a failure leaves the siblings running": after(RunFailed, forgets_siblings),
    "an entry is not counted": after(BranchJoined, lambda run, _: setattr(run, "position", 1)),
    "a replay depends on the process": after(RetryScheduled, depends_on_the_process),
    "the header misses joins": in_header(sees=lambda entry: not isinstance(entry, BranchJoined)),
    "the header misses retries": in_header(sees=lambda entry: not isinstance(entry, RetryScheduled)),
    "the header misses the end": in_header(sees=lambda entry: not isinstance(entry, RunCompleted | RunFailed)),
    "the header forgets who is due already": in_header(due_at_ms=None),
    "the header counts who has left": counts_who_has_left,
    "the header forgets the delay": in_header(due_in_ms=None),
    "the header never says that a step completed": in_header(completes=False),
    "a pause forgets the run's time-out": in_evolve(forgets_the_deadline_in_a_pause),
    "a clock that stood still has nothing left": instead_of(evolving, "start_clock", starts_with_nothing_left),
    "a clock that stood still starts from its arrival": instead_of(
        evolving, "start_clock", starts_where_it_was
    ),
    "a pause does not stop clocks": instead_of(evolving, "stop_clock", lambda *_: None),
    "a pause moves a named moment": instead_of(evolving, "stop_clock", stops_also_what_is_named),
    "a pause is not handed on to new branches": in_evolve(starts_unpaused),
    "a held branch owes its attempt": instead_of(Run, "holds", lambda *_: False),
    "a pause step is not recorded": in_decide(
        lambda _, entries: [each for each in entries if not (isinstance(each, Paused) and not each.by)]
    ),
    "a pause is recorded as often as it is asked for": instead_of(control, "_is_paused", lambda *_: False),
    "an unpause is recorded where nothing is paused": instead_of(control, "_is_paused", lambda *_: True),
    "a failure keeps the timers": after(RunFailed, keeps_timers),
    "a cancel leaves a branch open": after(RunCancelled, leaves_one_open),
    "a cancel says that it failed": after(RunCancelled, lambda run, _: setattr(run, "status", "failed")),
    "something follows a cancel": in_decide(
        lambda _, entries: entries + entries[-1:] if type(entries[-1]) is RunCancelled else entries
    ),
    "a timer fires whatever its clock says": instead_of(waits, "timer_fired", fires_whatever_is_due),
    "a time-out ends the wait like a sleep": in_each(
        WaitTimedOut, lambda entry: SleepEnded(entry.branch, entry.step, entry.visit, entry.arrivals)
    ),
    "a signal goes to who waits shortest": instead_of(waits, "signal_arrived", gives_to_the_newest),
    "a signal is given twice": instead_of(waits, "signal_arrived", gives_twice),
    "a signal's payload is lost": after(
        SignalReceived, lambda run, entry: setattr(run.branches[entry.branch], "value", INPUT)
    ),
    "who has received still waits": after(
        SignalReceived, lambda run, entry: run.waits.update({entry.branch: "s"})
    ),
    "a deadline that was put off counts": instead_of(
        waits,
        "deadline_passed",
        lambda turn, _: RIGHT_DEADLINE(turn, DeadlinePassed(turn.run.deadline_ms or 0)),
    ),
    "what can only fail again is retried": instead_of(
        control, "can_reopen", lambda run: any(branch.was for branch in run.branches.values())
    ),
    "a retry has what is left of the budget": after(RunReopened, retries_with_what_is_left),
    "a retry begins at the first attempt": after(RunReopened, begins_again),
    "a retry has no time-out": after(RunReopened, retries_without_a_bound),
    "the header does not see pauses": in_header(sees=lambda entry: not isinstance(entry, Paused)),
    "the header does not see that a pause ends": in_header(sees=lambda entry: not isinstance(entry, Unpaused)),
    "the header does not see signals": in_header(sees=lambda entry: not isinstance(entry, SignalReceived)),
    "a recovery forgets the run's time-out": in_owed(
        "owed", lambda _, effects: [each for each in effects if each.branch]
    ),
    "a snapshot forgets who waits for what": in_snapshot_of_run("waits", {}),
    "a snapshot forgets the pause": in_snapshot_of_run("pause", None),
    "a snapshot forgets the run's time-out": in_snapshot_of_run("timeout_ms", None),
    "a snapshot forgets what is left of the time-out": in_snapshot_of_run("deadline_left_ms", None),
    "a snapshot forgets what is left of a clock": in_snapshot(lambda branch: setattr(branch, "left_ms", None)),
    "a snapshot forgets pauses of branches": in_snapshot(lambda branch: setattr(branch, "pause", None)),
    "a snapshot forgets what a failure has stopped": in_snapshot(lambda branch: setattr(branch, "was", None)),
    "a snapshot forgets budgets": in_snapshot(lambda branch: branch.budgets.clear()),
    "a snapshot forgets parents": in_snapshot(lambda branch: setattr(branch, "parent", None)),
    "a snapshot forgets what a join took": in_snapshot(
        lambda branch: setattr(branch, "value", INPUT) if isinstance(branch.value, dict) else None
    ),
    "a run that is over still owes": in_owed(
        "owed",
        lambda run, effects: effects or [StartAttempt("main", "t1", 1, 1)] if run.is_over else effects,
    ),
    "a recovery forgets who is in backoff": in_owed(
        "owed", lambda _, effects: [each for each in effects if isinstance(each, StartAttempt)]
    ),
    "a recovery begins at the first attempt": in_owed(
        "owed",
        lambda _, effects: [
            changed(each, then=changed(each.then, attempt=1))
            if isinstance(each, ArmTimer) and isinstance(each.then, StartAttempt)
            else each
            for each in effects
        ],
    ),
    "a commit forgets a branch it has started": in_owed("owed_after", lambda _, effects: effects[:1]),
    "a commit forgets its timers": in_owed(
        "owed_after", lambda _, effects: [each for each in effects if isinstance(each, StartAttempt)]
    ),
}


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug that survives fails: then the property above does not say what it should."""
    search = SEARCH(given(workflows(), NUMBERS)(property_of_every_run))
    plant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, IndexError)):
        search()
