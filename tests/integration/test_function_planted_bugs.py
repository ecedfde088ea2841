"""The crash check of durable functions is worth something: each of these bugs, planted, is caught by it.

That it finds nothing where nothing is planted is what `test_function_crashes` says.
"""
# What is planted stands in for methods of the engine, and gets what they get.
# ruff: noqa: A002, ANN401

import inspect
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from holdfast.codecs import json as codec
from holdfast.core import operations
from holdfast.core.entries import DELETED, Child, Entry, Failure, OperationCompleted, OperationFailed
from holdfast.core.events import ChildEnded, Event
from holdfast.core.header import Header
from holdfast.core.operations import NOTHING
from holdfast.core.run import place_of
from holdfast.core.turn import Turn
from holdfast.errors import HoldfastError
from holdfast.runtime import relatives
from holdfast.runtime.body import Body
from holdfast.runtime.driver import Driver
from holdfast.runtime.durable import Context
from holdfast.runtime.inbox import OUTCOME
from holdfast.runtime.scopes import Scope, current_scope
from holdfast.runtime.sending import Sent
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import ENDED, Append, Applied, Message, NewRun
from tests.integration.functions import EXAMPLES
from tests.integration.test_function_crashes import check, crashed

Caught = (AssertionError, HoldfastError)
Patch = pytest.MonkeyPatch


def assert_caught(name: str, match: str, *, every: int = 1) -> None:
    with pytest.raises(Caught, match=match):
        check(EXAMPLES[name], crashed(EXAMPLES[name], every=every))


# Keys and scopes.


def test_ordinals_by_the_order_of_drawing_are_caught(monkeypatch: Patch) -> None:
    """One counter for all scopes of a body: who sleeps first draws first when the body runs again."""

    def number(scope: Scope, name: str) -> str:
        counts: dict[str, int] = scope._body.__dict__.setdefault("counts", {})
        counts[name] = counts.get(name, 0) + 1
        return f"{scope.path}{name}#{counts[name]}"

    monkeypatch.setattr(Scope, "number", number)
    assert_caught("nested", "definition_changed|is blocked")


def test_a_race_whose_winner_is_not_recorded_is_caught(monkeypatch: Patch) -> None:
    async def forget(_body: Body, _key: str, _ended: tuple[int, ...]) -> None:
        pass

    monkeypatch.setattr(Body, "close_scopes", forget)
    assert_caught("contest", "expected step quick#1, and found step slow#1")


# Values and variables.


def test_values_that_are_not_recorded_before_a_step_begins_are_caught(monkeypatch: Patch) -> None:
    """They are recorded with the end of the step: after a crash in it, it has another key."""
    real = Body.may_begin

    async def begin_at_once(body: Body) -> None:
        kept, body._events = body._events, []
        await real(body)
        body._events = kept

    monkeypatch.setattr(Body, "may_begin", begin_at_once)
    assert_caught("draws", "the effects are .* under 3 keys, and without a crash .* under 2 keys")


def test_recording_the_errors_of_record_is_caught(monkeypatch: Patch) -> None:
    async def record(ctx: Context, key: str, fn: Callable[[], Any], *, type: Any = Any) -> Any:
        body = ctx._body
        name, operation = current_scope(body, "ctx.record").ask("record", key)
        if operation is None:
            try:
                value = fn()
                payload = codec.encode(await value if inspect.isawaitable(value) else value)
                await body.succeed(name, "record", payload)
            except ConnectionError as error:
                await body.fail(name, "record", Failure("ConnectionError", str(error)))
            operation = body.branch.operations[name]
        if operation.failure is not None:
            raise ConnectionError(operation.failure.message)
        return codec.decoder(type)(operation.output)

    monkeypatch.setattr(Context, "record", record)
    assert_caught("draws", "failed")


def test_reading_what_is_written_later_is_caught(monkeypatch: Patch) -> None:
    """When the body runs again, all that it has ever set is there from its first line on."""

    def get(ctx: Context, name: str, default: Any = None, *, type: Any = Any) -> Any:
        payload = current_scope(ctx._body, "ctx.get").find(name)
        if payload is None:
            payload = {**ctx._body.branch.variables, **ctx._body.branch.sets}.get(name, DELETED)
        return default if payload == DELETED else codec.decoder(type)(payload)

    monkeypatch.setattr(Context, "get", get)
    assert_caught("counting", r"\+ \('completed', \[20, 1, 2, 13")


# Retries.


def test_a_budget_that_begins_anew_with_a_crash_is_caught(monkeypatch: Patch) -> None:
    """The first body of a process takes an operation that backs off for a new one."""
    real = Body.run
    hosts: list[object] = []

    async def forget(body: Body, *rest: Any) -> Any:
        if body.host not in hosts:
            hosts.append(body.host)
            for operation in body.branch.operations.values():
                if operation.status == "backoff":
                    operation.attempt, operation.budgets = 1, {}
        return await real(body, *rest)

    monkeypatch.setattr(Body, "run", forget)
    assert_caught("stubborn", "the journal differs: .*OperationRetried")


# Signals.


def test_consuming_a_signal_in_the_commit_after_its_own_is_caught(monkeypatch: Patch) -> None:
    """A crash between the two, and who waits next gets it once more."""
    real = Driver._send
    late: dict[int, tuple[int, ...]] = {}

    def send(
        driver: Driver,
        entries: Sequence[Entry],
        header: Header,
        events: Sequence[Event],
        consumed: tuple[int, ...] = (),
    ) -> None:
        owed = late.pop(driver.record.key, ())
        signals = {e.seq for e in entries if isinstance(e, OperationCompleted) and e.kind == "wait_signal"}
        late[driver.record.key] = tuple(signals)
        driver._inbox.update(tuple(signals), ())
        real(driver, entries, header, events, (*owed, *(seq for seq in consumed if seq not in signals)))

    monkeypatch.setattr(Driver, "_send", send)
    assert_caught("approval", r"the run ended with \('completed', \[1, 1,")


# Children.


async def ask(body: Body, key: str, new: NewRun, *, detach: bool) -> None:
    """Record that a child is asked for, in a commit that does not start it."""
    if detach:
        await body.succeed(key, "child", codec.encode(new.id))
    else:
        await body.request(key, "child", child=Child(new.id, new.workflow))


def test_a_child_that_is_started_before_its_parents_commit_is_caught(monkeypatch: Patch) -> None:
    """With an id that is not made of the key: a crash between the two, and there is one more."""

    async def start(body: Body, key: str, new: NewRun, *, detach: bool) -> None:
        await body.may_begin()
        new = msgspec.structs.replace(new, id=new.id[:-12] + secrets.token_hex(6))
        await body.host.group.commit(new)
        body.host.nudge()
        await ask(body, key, new, detach=detach)

    monkeypatch.setattr(Body, "start_child", start)
    assert_caught("family", "is there, and without a crash it is not there", every=3)


def test_a_child_that_is_started_after_its_parents_commit_is_caught(monkeypatch: Patch) -> None:
    """A crash between the two, and the parent waits for one that never was."""

    async def start(body: Body, key: str, new: NewRun, *, detach: bool) -> None:
        await body.may_begin()
        await ask(body, key, new, detach=detach)
        await body.host.group.commit(new)
        body.host.nudge()

    monkeypatch.setattr(Body, "start_child", start)
    assert_caught("family", "crash after commit .* cannot end", every=3)


def test_an_outcome_that_is_delivered_twice_is_caught(monkeypatch: Patch) -> None:
    """The child sends two messages, and the parent does not look whether the operation is done."""
    real = relatives.with_relatives

    def send_twice(append: Append, *rest: Any) -> Append:
        append = real(append, *rest)
        again = [msgspec.structs.replace(each, id=f"{each.id}/2") for each in outcomes(append)]
        return msgspec.structs.replace(append, messages=(*append.messages, *again))

    def believe(turn: Turn, event: ChildEnded) -> None:
        at = (event.branch, event.step, event.visit, event.key)
        if event.key in turn.run.branches[event.branch].operations:
            turn.moved += (place_of(event.branch, event.key),)
            turn.entries.append(
                OperationCompleted(*at, "child", event.output or NOTHING, event.seq)
                if event.failure is None
                else OperationFailed(*at, "child", event.failure, event.seq)
            )

    monkeypatch.setattr(relatives, "with_relatives", send_twice)
    monkeypatch.setattr(operations, "child_ended", believe)
    assert_caught("family", "which was done before", every=3)


def test_an_outcome_that_is_sent_after_the_childs_end_is_caught(monkeypatch: Patch) -> None:
    """A crash between the two, and the parent waits for ever."""
    real_relatives, real_applied = relatives.with_relatives, Driver._applied
    later: dict[int, list[Message]] = {}

    def send_later(append: Append, *rest: Any) -> Append:
        append = real_relatives(append, *rest)
        late = later[append.key] = outcomes(append)
        kept = tuple(message for message in append.messages if message not in late)
        return msgspec.structs.replace(append, messages=kept)

    def applied(driver: Driver, sent: Sent, outcome: Applied) -> None:
        for message in later.pop(sent.append.key, ()):
            driver._host.group.submit(message, lambda _outcome: driver._host.nudge())
        real_applied(driver, sent, outcome)

    monkeypatch.setattr(relatives, "with_relatives", send_later)
    monkeypatch.setattr(Driver, "_applied", applied)
    assert_caught("family", "cannot end", every=3)


def outcomes(append: Append) -> list[Message]:
    return [message for message in append.messages if message.kind == OUTCOME]


# The store.


def test_an_operation_that_is_lost_after_it_was_acknowledged_is_caught(monkeypatch: Patch) -> None:
    """As if the file were not synced: the last entry of each run that goes on is gone after the crash."""
    real = MemoryStore.open

    async def forget(store: MemoryStore) -> None:
        for row in store._rows.values():
            if row.status not in ENDED and len(row.journal) > 1:
                row.journal.pop()
                row.position -= 1
        await real(store)

    monkeypatch.setattr(MemoryStore, "open", forget)
    assert_caught("saga", "operation 'reserve#1' was recorded as done, and its body ran again")
