"""Bugs that somebody may make in durable functions and child runs; as in `planted`."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from holdfast.core import operated, operations, retries
from holdfast.core.children import Awaited
from holdfast.core.entries import (
    NOTHING_SET,
    Child,
    Control,
    Entry,
    OperationRetried,
    Paused,
    RunCancelled,
    StepSuspended,
    Unpaused,
)
from holdfast.core.events import AttemptSuspended, ChildEnded, Event, OperationRaised
from holdfast.core.run import Branch, Operation, Run
from holdfast.core.turn import Turn
from holdfast.definition.workflow import Workflow
from holdfast.runtime import attempting, bodies, relatives, worker
from holdfast.runtime.body import Body
from holdfast.runtime.driver import Driver
from holdfast.runtime.inbox import OUTCOME, Inbox
from holdfast.runtime.replacing import replace as replace_run
from holdfast.runtime.worker import Worker
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import ENDED, Append, Applied, Member, NewRun, Outcome, RunRecord
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.world import Faults

Plant = Callable[[pytest.MonkeyPatch], None]
GAP_S = 0.5
"""What others have time for, between the two halves of something that is torn apart."""


def _tearing(
    monkeypatch: pytest.MonkeyPatch, tear: Callable[[Append], tuple[Append, Sequence[Member]]]
) -> None:
    """Make the store write a part of each append by itself, a little later."""
    real = Database.commit

    async def commit(store: Database, group: Sequence[Member]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for member in group:
            first, later = tear(member) if isinstance(member, Append) else (member, ())
            (outcome,) = await real(store, [first])
            outcomes.append(outcome)
            if isinstance(outcome, Applied) and later:
                await asyncio.sleep(GAP_S)
                await real(store, later)
        return outcomes

    monkeypatch.setattr(Database, "commit", commit)


# Children.


def child_inserted_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    _tearing(monkeypatch, lambda append: (msgspec.structs.replace(append, children=()), append.children))


def outcome_sent_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    def tear(append: Append) -> tuple[Append, Sequence[Member]]:
        outcomes = [message for message in append.messages if message.kind == OUTCOME]
        others = tuple(message for message in append.messages if message.kind != OUTCOME)
        return msgspec.structs.replace(append, messages=others), outcomes

    _tearing(monkeypatch, tear)


def outcome_not_consumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is written, and the message stays."""
    real = Inbox.consumed

    def consumed(inbox: Inbox, events: Iterable[Event], entries: Iterable[Entry]) -> tuple[int, ...]:
        return real(inbox, [event for event in events if not isinstance(event, ChildEnded)], entries)

    monkeypatch.setattr(Inbox, "consumed", consumed)


def outcome_swallowed_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    real = operations.child_ended

    def child_ended(turn: Turn, event: ChildEnded) -> None:
        if turn.run.pause is None:
            real(turn, event)

    monkeypatch.setattr(operations, "child_ended", child_ended)


def parked_over_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is given back without comparing the counter, where what was not read is no signal."""
    real = MemoryStore._append

    def append(store: MemoryStore, member: Append, at_ms: int) -> Outcome:
        row = store._rows.get(member.key)
        parks = member.worker is None and member.status not in ENDED
        if row is not None and parks and row.inbox and all(each.kind == OUTCOME for each in row.inbox):
            member = msgspec.structs.replace(member, messages_read=None)
        return real(store, member, at_ms)

    monkeypatch.setattr(MemoryStore, "_append", append)


def _not_passed_down(monkeypatch: pytest.MonkeyPatch, kind: type[Control]) -> None:
    real: Callable[..., list[tuple[Child, Control]]] = relatives.passed_down

    def passed_down(*args: Any) -> list[tuple[Child, Control]]:  # noqa: ANN401 - whatever it is called with
        return [(child, control) for child, control in real(*args) if not isinstance(control, kind)]

    monkeypatch.setattr(relatives, "passed_down", passed_down)


def cancel_not_passed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    _not_passed_down(monkeypatch, RunCancelled)


def pause_not_passed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    _not_passed_down(monkeypatch, Paused)


def unpause_not_passed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    _not_passed_down(monkeypatch, Unpaused)


def same_child_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is asked for anew gets the id of the one before, which is there already."""
    real: Callable[..., NewRun] = worker.child_of

    def child_of(record: RunRecord, awaited: Awaited, _position: int, *args: Any, detach: bool) -> NewRun:  # noqa: ANN401 - whatever else
        return real(record, awaited, 0, *args, detach=detach)

    monkeypatch.setattr(worker, "child_of", child_of)


# Bodies that are put away.


def suspended_body_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = operated.operated

    def not_woken(run: Run, entry: Any, at_ms: int) -> None:  # noqa: ANN401 - an entry of a body
        branch = run.branches[entry.branch]
        was, active = branch.status, run.active
        real(run, entry, at_ms)
        if was == "suspended":
            branch.status, run.active = was, active

    monkeypatch.setattr("holdfast.core.evolve.operated", not_woken)


def suspended_though_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a body waits for has come in the turn in which it is put away."""

    def attempt_suspended(turn: Turn, event: AttemptSuspended) -> None:
        branch = turn.current(event)
        if branch is not None and branch.status != "suspended" and event.awaited:
            turn.entries.append(StepSuspended(event.branch, event.step, event.visit))

    monkeypatch.setattr(operations, "attempt_suspended", attempt_suspended)


def clocks_of_bodies_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for a sleep in a body is never due by itself."""
    monkeypatch.setattr(operated, "arm_operation", lambda _run, _branch, _operation: None)


def clocks_of_bodies_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.core.evolve.pending", lambda _branch: [])


def pause_does_not_stop_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Driver, "must_stop", lambda driver, _branch: driver._host.is_draining or driver._host.has_lapsed()
    )


# What is recorded.


def value_recorded_after_the_step_began(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Body.may_begin

    async def may_begin(body: Body) -> None:
        events, body._events = body._events, []
        await real(body)
        body._events = events + body._events

    monkeypatch.setattr(Body, "may_begin", may_begin)


def race_winner_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close_scopes(_body: Body, _key: str, _ended: tuple[int, ...]) -> None:
        pass

    monkeypatch.setattr(Body, "close_scopes", close_scopes)


def lost_signals_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a part has received that loses is gone."""
    monkeypatch.setattr(relatives, "given_back", lambda _run, _entries: [])


def all_signals_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of parts that had gone on from there."""
    monkeypatch.setattr(operated, "_is_last", lambda _branch, _operation, _before: True)


def signals_received_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part receives a signal in the very turn in which it loses."""
    monkeypatch.setattr(operations, "_is_in_vain", lambda _entry, _event: False)


def backoff_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a body that failed is tried again without a word in the journal."""
    real = Body.record

    async def record(body: Body, event: Any) -> None:  # noqa: ANN401 - whatever a body reports
        if not isinstance(event, OperationRaised) or not event.retry:
            await real(body, event)

    monkeypatch.setattr(Body, "record", record)


def backoff_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempting, "_is_due", lambda _body, _operation: True)


def attempts_of_a_body_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = operated._retried

    def retried(run: Run, branch: Branch, entry: OperationRetried, at_ms: int) -> None:
        known = branch.operations.get(entry.key)
        attempt = 1 if known is None else known.attempt
        real(run, branch, msgspec.structs.replace(entry, attempt=attempt), at_ms)

    monkeypatch.setattr(operated, "_retried", retried)


def everything_later_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry forgets what ran beside the operation that failed, too."""

    def following(branch: Branch, key: str) -> list[Operation]:
        culprit = branch.operations.get(key)
        later = [] if culprit is None else list(branch.operations.values())
        return [each for each in later if culprit is not None and each.position >= culprit.position]

    monkeypatch.setattr(operated, "following", following)
    monkeypatch.setattr(retries, "following", following)


def nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry of a function meets the same failure again, without asking for anything."""
    monkeypatch.setattr(operated, "following", lambda _branch, _key: [])
    monkeypatch.setattr(retries, "following", lambda _branch, _key: [])


def variables_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_sets(body: Body) -> Mapping[str, bytes]:
        body.unsent = {}
        return NOTHING_SET

    monkeypatch.setattr(Body, "take_sets", take_sets)


def anew_without_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins anew loses the signals that it has not received."""

    async def begin_anew(self: Worker, record: RunRecord, new: NewRun) -> None:
        await replace_run(self._store, new, record)
        self.nudge()

    monkeypatch.setattr(Worker, "begin_anew", begin_anew)


def anew_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins anew does so with the input that it had."""
    real: Callable[..., NewRun] = bodies.continued

    def continued(run: Run, record: RunRecord, workflow: Workflow, _payload: bytes) -> NewRun:
        return real(run, record, workflow, run.input)

    monkeypatch.setattr(bodies, "continued", continued)


PLANTS: list[Plant] = [
    child_inserted_afterwards,
    outcome_sent_afterwards,
    outcome_not_consumed,
    outcome_swallowed_in_a_pause,
    parked_over_an_outcome,
    cancel_not_passed_down,
    pause_not_passed_down,
    unpause_not_passed_down,
    same_child_again,
    suspended_body_not_woken,
    suspended_though_done,
    clocks_of_bodies_not_counted,
    clocks_of_bodies_not_frozen,
    pause_does_not_stop_a_body,
    value_recorded_after_the_step_began,
    race_winner_not_recorded,
    lost_signals_not_given_back,
    all_signals_given_back,
    signals_received_in_vain,
    backoff_not_recorded,
    backoff_not_waited_for,
    attempts_of_a_body_not_counted,
    everything_later_is_forgotten,
    nothing_is_forgotten,
    variables_not_recorded,
    anew_without_the_inbox,
    anew_as_before,
]

FOCUS: dict[Plant, Faults] = {}
"""Faults for bugs that a mixture of all of them seldom shows."""
