"""One life of the body of a durable function: from its first line until it ends or is put away.

It looks operations up in the branch's state, hands what is new to the driver, and waits for the commit. When
nothing of it runs, and all it waits for takes long, it is put away: `Unwinding` is raised wherever it waits,
and the run is given back. Whoever has it next runs the function from its first line; what is recorded is given
at once, so that it comes to the same place.
"""

import asyncio
import contextlib
import math
from collections.abc import Generator, Mapping

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import (
    DELETED,
    NOTHING_SET,
    Child,
    Failure,
    Operated,
    OperationCompleted,
    OperationFailed,
    OperationKind,
    Reported,
    StepSuspended,
    Wait,
)
from holdfast.core.events import (
    AttemptDiverged,
    AttemptEnded,
    AttemptFailed,
    AttemptSucceeded,
    AttemptSuspended,
    Event,
    Operating,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
    ScopesEnded,
)
from holdfast.core.operated import is_closed
from holdfast.core.operations import NOTHING
from holdfast.core.run import PENDING, Operation, Value, place_of
from holdfast.definition.policies import TIMEOUT
from holdfast.runtime.bindings import BoundStep
from holdfast.runtime.calls import Calls
from holdfast.runtime.context import CURRENT, DURABLE, DurableContext
from holdfast.runtime.limits import LINGER_MS
from holdfast.runtime.replaying import Replay
from holdfast.runtime.scopes import SCOPE_NOW, Scope, Unwinding
from holdfast.runtime.starts import failure_at_birth
from holdfast.runtime.surroundings import Continued, Surroundings
from holdfast.stores.records import NewRun


class Body:
    """A function that runs, with its scopes.

    Attributes:
        running: How many of its scopes run code; those that wait for what is recorded do not.
        unsent: Variables set in the body itself that are not recorded yet.
        is_dropped: Whether the run is not driven here any more: nothing is recorded, and nothing begins.
    """

    def __init__(self, around: Surroundings, at: StartAttempt) -> None:
        """Args: what it lives in, and the attempt that it is."""
        self.host = around.host
        self.driver = around.driver
        self.at = at
        self.around = around
        self.branch = around.driver.run.branches[at.branch]
        self.running = 1
        self.unsent: dict[str, bytes] = {}
        self.place = (at.branch, at.step, at.visit, at.attempt)
        self._loop = asyncio.get_running_loop()
        self.is_dropped = False
        self._events: list[OperationSucceeded | OperationRaised] = []
        self._unwritten: set[str] = set()
        self._writing: list[asyncio.Future[None]] = []
        self._ending: AttemptEnded | Continued | None = None
        self._committed: dict[str, asyncio.Future[None]] = {}
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._stopped: list[asyncio.Future[None]] = []
        self._patches: dict[str, bool] = {}
        self.calls = Calls()
        self._replay = Replay(self.branch.operations.values())

    # What scopes need (`scopes.Owner`).

    @property
    def is_ending(self) -> bool:
        """See `Owner`."""
        return self._ending is not None

    @property
    def is_diverging(self) -> bool:
        """See `Owner`."""
        return isinstance(self._ending, AttemptDiverged)

    def known(self, key: str) -> Operation | None:
        """See `Owner`."""
        return self.branch.operations.get(key)

    def recorded(self, path: str) -> list[Operation]:
        """See `Owner`."""
        return self._replay.take(path)

    def replayed(self) -> None:
        """See `Owner`."""
        self._replay.given()

    def check_passed(self, scope: Scope, found: str) -> None:
        """See `Owner`."""
        passed = self._replay.not_asked_for(scope)
        if passed is not None:
            raise self.diverge(f"{passed.kind} {passed.key}", found)

    def abandon(self, path: str) -> None:
        """See `Owner`."""
        self._replay.abandon(path)

    def diverge(self, expected: str, found: str) -> Unwinding:
        """See `Owner`."""
        if self._ending is None:
            self._ending = AttemptDiverged(*self.place, expected, found)
            self._unwind()
        return Unwinding()

    def consider(self) -> None:
        """Put the body away if nothing of it runs, and nothing that it waits for is near."""
        if not self.is_waiting or self._ending is not None or not self.driver.is_settled:
            return
        must_stop = self.driver.must_stop(self.branch)
        if self._stopped and not must_stop:
            for future in self._stopped:
                future.set_result(None)
            return
        if not must_stop and self._next_due_ms() - self.host.now_ms() <= LINGER_MS:
            return
        self._ending = AttemptSuspended(*self.place, () if self._stopped else tuple(self._awaited))
        self._unwind()

    async def close_scopes(self, key: str, ended: tuple[int, ...]) -> None:
        """See `Owner`."""
        await self.record(ScopesEnded(*self.place, key, ended))

    # What operations need.

    async def record(self, event: Operating) -> None:
        """Hand over an event, and what was to be recorded with the next one; return when it is committed."""
        self._check_alive()
        future = self._committed[event.key] = self._loop.create_future()
        self.driver.operate([*self.take_events(), *self.around.reports.rest(self.at.branch, event.key), event])
        await future
        if event.key not in self.branch.operations:
            raise asyncio.CancelledError  # its scope was closed before, or together with it

    def _check_alive(self) -> None:
        if self.is_dropped:
            raise asyncio.CancelledError
        if self._ending is not None:
            raise Unwinding

    def record_later(self, key: str, kind: OperationKind, output: bytes) -> None:
        """Record the output of an operation together with whatever comes next, before any step begins."""
        self._events.append(OperationSucceeded(*self.place, key, kind, output, self.take_sets()))

    def cut_off(self, key: str, kind: OperationKind) -> None:
        """An operation was cancelled: if the function itself did that, by a time-out of its own, it has failed.

        That is recorded together with whatever comes next.
        """
        scope, context = SCOPE_NOW.get(), CURRENT.get()
        is_told = self.is_dropped or self._ending is not None or scope is None or self._is_closed(scope)
        if not is_told and not (context is not None and context.cancelled):
            failure = Failure(TIMEOUT, "the function cut it off", (TIMEOUT, TimeoutError.__name__))
            self._events.append(OperationRaised(*self.place, key, kind, failure, (), 0.0, self.take_sets()))

    def _is_closed(self, scope: Scope) -> bool:
        return scope.is_closed or is_closed(self.branch, scope.path)

    def take_events(self) -> list[Event]:
        """What was to be recorded with the next event."""
        events, self._events = self._events, []
        self._unwritten.update(event.key for event in events)
        return list(events)

    async def request(
        self, key: str, kind: OperationKind, *, wait: Wait | None = None, child: Child | None = None
    ) -> None:
        """Begin what takes time."""
        await self.record(OperationRequested(*self.place, key, kind, wait, child, self.take_sets()))

    async def succeed(self, key: str, kind: OperationKind, output: bytes) -> None:
        """Record the output of an operation."""
        await self.record(OperationSucceeded(*self.place, key, kind, output, self.take_sets()))

    async def fail(self, key: str, kind: OperationKind, failure: Failure) -> None:
        """Record that an operation has failed for good."""
        await self.record(OperationRaised(*self.place, key, kind, failure, (), 0.0, self.take_sets()))

    async def start_child(self, key: str, new: NewRun, *, detach: bool) -> None:
        """Start a run with the entry that records it."""
        await self.may_begin()
        failure = failure_at_birth(new)
        if failure is not None and not detach:
            await self.fail(key, "child", failure)
            return
        self.around.children[place_of(self.at.branch, key)] = new
        if detach:
            await self.succeed(key, "child", codec.encode(new.id))
        else:
            await self.request(key, "child", child=Child(new.id, new.workflow))

    @contextlib.contextmanager
    def outside(self) -> Generator[None]:
        """Code of the user's that is no part of the function: nothing may be asked for there."""
        scope = SCOPE_NOW.set(None)
        try:
            yield
        finally:
            SCOPE_NOW.reset(scope)

    async def done(self, key: str) -> Operation:
        """The operation, once it is done."""
        while (operation := self.branch.operations.get(key)) is not None and operation.status in PENDING:
            try:
                await self.block(key)
            except asyncio.CancelledError:
                self.cut_off(key, operation.kind)
                raise
        if operation is None:
            raise asyncio.CancelledError  # its scope was closed
        return operation

    async def may_begin(self) -> None:
        """Return when a step may begin: all before it is committed, and nobody wants the body to stop."""
        scope = SCOPE_NOW.get()
        while True:
            self._check_alive()
            if scope is not None and self._is_closed(scope):
                raise asyncio.CancelledError
            if self._events:
                self.driver.operate(self.take_events())
            if self._unwritten:
                future = self._loop.create_future()
                self._writing.append(future)
                await future
                continue
            if not self.driver.is_reading and not self.driver.must_stop(self.branch):
                return
            future = self._loop.create_future()
            self._stopped.append(future)
            await self._until(future)

    def patched(self, scope: Scope, name: str) -> bool:
        """Whether the code from the patch on is for this run: not if it had gone past that place before."""
        key = f"patched:{name}"
        if key in self.branch.operations:
            return True
        if key not in self._patches:
            is_new = self._patches[key] = not scope.rest and self._replay.not_asked_for(scope) is None
            if is_new:
                self.record_later(key, "patch", NOTHING)
        return self._patches[key]

    def continue_as_new(self, payload: bytes) -> Unwinding:
        """End the body: its run begins anew."""
        if self._ending is None:
            self._ending = Continued(self.at.branch, payload)
            self._unwind()
        return Unwinding()

    # What the driver tells.

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for what is recorded elsewhere, or for time."""
        if self.running:
            return False
        waiting = [*self._awaited.values(), *self._stopped]
        return bool(waiting) and not any(future.done() for future in waiting)

    def wake(self, key: str) -> None:
        """Look again at an operation that is waited for."""
        _resolve(self._awaited.get(key))

    def applied(self, entry: Operated) -> None:
        """This entry of the branch is committed."""
        if isinstance(entry, StepSuspended | Reported):
            return
        _resolve(self._committed.pop(entry.key, None))
        self._unwritten.discard(entry.key)
        if not self._unwritten:
            self._written()
        if isinstance(entry, OperationCompleted | OperationFailed):
            _resolve(self._awaited.get(entry.key))

    def settled(self) -> None:
        """Nothing is on its way in the driver: what it was given and did not record meant nothing any more."""
        for future in self._committed.values():
            _resolve(future)
        self._committed.clear()
        self._unwritten.clear()
        self._written()
        if self._stopped and not self.driver.must_stop(self.branch):
            for future in self._stopped:
                _resolve(future)
        self.consider()

    def drop(self) -> None:
        """The run is not driven here any more: whatever waits here is cancelled, and nothing more is taken."""
        self.is_dropped = True
        waiting = [*self._committed.values(), *self._awaited.values(), *self._stopped, *self._writing]
        for future in waiting:
            future.cancel()

    # Its life.

    async def run(self, context: DurableContext, step: BoundStep, value: Value) -> AttemptEnded | Continued:
        """Call the function, and report what came of it."""
        scope = Scope(self, "", None)
        DURABLE.set(context)
        SCOPE_NOW.set(scope)
        event: AttemptEnded | None = None
        try:
            event = self._ended(scope, await self.host.attempts.make(self.at, step, value))
        except Unwinding:
            pass
        finally:
            SCOPE_NOW.set(None)
        if self._ending is not None:
            return self._ending
        if event is None:
            raise RuntimeError("the body of a step raised Unwinding by itself")
        return event

    def _ended(self, scope: Scope, event: AttemptSucceeded | AttemptFailed) -> AttemptEnded:
        """The outcome, with what belongs to it; raises `Unwinding` if more is recorded than was asked for."""
        if isinstance(event, AttemptSucceeded):
            scope.check("its end")
            # What an attempt before this one has set, and this one has not, is as it was.
            before = self.branch.variables
            undone = {name: before.get(name, DELETED) for name in self.branch.sets if name not in scope.sets}
            return AttemptSucceeded(*self.place, event.output, {**self.take_sets(), **undone})
        if event.failure.type != TIMEOUT and self._ending is None:
            scope.check(event.failure.summary())
        return event

    def take_sets(self) -> Mapping[str, bytes]:
        """Variables to go with the next entry."""
        if not self.unsent:
            return NOTHING_SET
        # What is recorded by now is not sent again, also not by a body that sets it again in its next life. But
        # what is only on its way is: the event that carries it may be of a scope that is closed meanwhile.
        known = self.branch.sets
        self.unsent = {name: payload for name, payload in self.unsent.items() if known.get(name) != payload}
        return dict(self.unsent) or NOTHING_SET

    def _next_due_ms(self) -> float:
        dues = (self.branch.operations[key].due_at_ms for key in self._awaited)
        return min((due for due in dues if due is not None), default=math.inf)

    async def block(self, key: str) -> None:
        """Wait for what is recorded of an operation, or for `wake`."""
        future = self._awaited[key] = self._loop.create_future()
        try:
            await self._until(future)
        finally:
            del self._awaited[key]

    def _written(self) -> None:
        """All values that were handed over are recorded."""
        for future in self._writing:
            _resolve(future)
        self._writing.clear()

    async def _until(self, future: asyncio.Future[None]) -> None:
        self.running -= 1
        self.consider()
        self.driver.note_slot()
        try:
            await future
        finally:
            self.running += 1
            self.driver.note_slot()
            if future in self._stopped:
                self._stopped.remove(future)

    def _unwind(self) -> None:
        for future in [*self._awaited.values(), *self._stopped]:
            if not future.done():
                future.set_exception(Unwinding())


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
