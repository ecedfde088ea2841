"""A process's way to the database: requests and answers take time, and faults strike between them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from holdfast.errors import HoldfastError, StoreUnavailableError
from holdfast.stores.base import Renewals
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Append,
    Applied,
    Claimed,
    Member,
    Message,
    NewRun,
    Outcome,
    RunRecord,
)
from holdfast.testing.faults import Ask, Fault, FaultyStore
from holdfast.testing.simulator.checks import Checks
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.loop import Lane
from holdfast.testing.simulator.ports import SimulatedClock
from holdfast.testing.simulator.world import CALL_FAULTS, HINT_FAULTS, RENEWAL_FAULTS, STALL_MS, World

T = TypeVar("T")
TIMEOUT_MS = (1.0, 2_000.0)
"""Until a call that gets no answer has failed."""
CLIENT_POLL_MS = (5_000, 60_000)


class Dweller(Protocol):
    """What a line knows of its process."""

    name: str
    lane: Lane
    clock: SimulatedClock
    identities: list[str]
    concurrency: int
    is_alive: bool
    is_worker: bool

    def kill(self) -> None:
        """End it now."""
        ...


class Hints:
    """Tells processes that a run may be due, now and then."""

    def __init__(self, world: World) -> None:
        """Nobody listens yet."""
        self._world = world
        self.listeners: list[tuple[Dweller, Callable[[], None]]] = []

    def send(self) -> None:
        """Hint at everyone who lives; faults lose, double or delay it."""
        for process, hint in self.listeners:
            if not process.is_alive:
                continue
            fault = self._world.draw(HINT_FAULTS)
            if fault is not None:
                self._world.hit(fault, process.name)
            if fault != "hint_lost":
                wait_s = self._world.span_s(1, 20_000) if fault == "hint_late" else self._world.latency_s()
                for _ in range(2 if fault == "hint_doubled" else 1):
                    self._world.loop.post(process.lane, wait_s, hint)
        self.listeners = [each for each in self.listeners if each[0].is_alive]


class Line(FaultyStore):
    """The store as one process sees it. A dead process's calls reach nothing and are never answered."""

    def __init__(
        self, world: World, database: Database, checks: Checks, hints: Hints, process: Dweller
    ) -> None:
        """Args: whose line to what, and who watches."""
        super().__init__(database, lambda _number, _group: Fault.NONE)
        self._world = world
        self._database = database
        self._checks = checks
        self._hints = hints
        self._process = process

    @property
    def may_drive(self) -> bool:
        """See `Store`. Clients never do."""
        return self._process.is_worker

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`. Clients have nothing to look for."""
        return self._inner.poll_ms if self._process.is_worker else CLIENT_POLL_MS

    def on_hint(self, hint: Callable[[], None]) -> None:
        """See `Store`."""
        self._hints.listeners.append((self._process, hint))

    def renewals(self) -> Renewals:
        """See `Store`."""
        return _Renewals(self._world, self._database, self._checks, self._process)

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """See `Store`."""
        self._checks.registering(self._process, worker)
        await super().register(worker, workflows)

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        if self._process.is_alive:
            self._checks.committing(self._process, group)
        members = list(group)
        outcomes = await self._reach("commit", lambda: self._inner.commit(members))
        for member, outcome in zip(members, outcomes, strict=True):
            self._world.hits[f"outcome {type(outcome).__name__}"] += 1
            if isinstance(member, Append) and isinstance(outcome, Applied):
                self._checks.told(member)
        if any(
            isinstance(m, NewRun | Message) or (isinstance(m, Append) and m.worker is None) for m in members
        ):
            self._hints.send()
        return outcomes

    async def claim(
        self,
        worker: str,
        *,
        workflows: Sequence[str],
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        limit: int,
        suspects: int = 1,
        excluded: Sequence[str] = (),
    ) -> Claimed:
        """See `Store`."""
        if not self._process.is_worker:
            return Claimed()
        return await super().claim(
            worker, workflows=workflows, queues=queues, limit=limit, suspects=suspects, excluded=excluded
        )

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        return await super().claim_one(worker, run_id) if self._process.is_worker else None

    async def close(self) -> None:
        """See `Store`."""

    async def _reach(self, call: str, ask: Ask[T]) -> T:
        """Send the request, let it be done outside of this process, and wait for the answer."""
        world, loop = self._world, self._world.loop
        answer: asyncio.Future[T] = loop.create_future()
        if self._process.is_alive:
            fault = world.draw(CALL_FAULTS)
            if fault is not None:
                world.hit(fault, f"{self._process.name} {call}")
                world.hits[f"faulty {call}"] += 1
            if fault == "crash_before":
                self._process.kill()
            else:
                there_s = world.span_s(*STALL_MS) if fault == "delay_request" else world.latency_s()
                arrive = partial(self._arrive, call, ask, fault, answer)
                loop.post(loop.outside, there_s, arrive)
        return await answer

    def _arrive(self, call: str, ask: Ask[T], fault: str | None, answer: asyncio.Future[T]) -> None:
        world, loop = self._world, self._world.loop
        if fault in {"refuse", "late"} or world.is_down:
            loop.call_later(world.span_s(*TIMEOUT_MS), self._fail, call, answer)
            if fault == "late" and not world.is_down:
                serve = partial(self._serve, call, ask, fault, None)
                loop.call_later(world.span_s(*STALL_MS), lambda: loop.create_task(serve()))
        else:
            loop.create_task(self._serve(call, ask, fault, answer))

    async def _serve(self, call: str, ask: Ask[T], fault: str | None, answer: asyncio.Future[T] | None) -> None:
        """What happens at the database, and on the way back."""
        world, loop = self._world, self._world.loop
        outcome: T | HoldfastError
        try:
            outcome = await ask()
        except HoldfastError as error:
            outcome = error
        world.note(f"{self._process.name} {call} {_shown(outcome)}")
        if fault == "crash_after":
            self._process.kill()
        elif answer is not None and fault == "hide":
            loop.call_later(world.span_s(*TIMEOUT_MS), self._fail, call, answer)
        elif answer is not None:
            back_s = world.span_s(*STALL_MS) if fault == "delay_answer" else world.latency_s()
            loop.call_later(back_s, _tell, answer, outcome)

    def _fail(self, call: str, answer: asyncio.Future[Any]) -> None:
        _tell(answer, StoreUnavailableError(store=self.url, reason=f"a fault struck {call}"))


class _Renewals:
    """Renewals block a thread, so that they are asked and answered within one callback.

    One that takes time moves the clock that its thread sees ahead; `SimulatedHeart` waits that much longer.
    """

    def __init__(self, world: World, database: Database, checks: Checks, process: Dweller) -> None:
        self._world = world
        self._database = database
        self._checks = checks
        self._process = process

    def renew(self, worker: str) -> bool:
        world = self._world
        fault = world.draw(RENEWAL_FAULTS)
        if fault is not None:
            world.hit(fault, f"{self._process.name} {worker}")
        if world.is_down or fault == "renewal_refused":
            raise self._error()
        if fault == "renewal_late":
            self._process.clock.ahead_ms += TIMEOUT_MS[1]
            world.loop.post(world.loop.outside, world.span_s(*STALL_MS), lambda: self._ask(worker))
            raise self._error()
        is_alive = self._ask(worker)
        if fault == "renewal_slow":
            self._process.clock.ahead_ms += world.span_s(*STALL_MS) * 1_000
        if fault == "renewal_hidden":
            raise self._error()
        if is_alive:
            self._checks.renewed(worker, world.now_s)
        return is_alive

    def close(self) -> None:
        pass

    def _ask(self, worker: str) -> bool:
        is_alive = self._database.renew(worker)
        self._world.note(f"{self._process.name} renews {worker}: {is_alive}")
        return is_alive

    def _error(self) -> StoreUnavailableError:
        return StoreUnavailableError(store=self._database.url, reason="a fault struck a renewal")


def _tell(answer: asyncio.Future[T], outcome: T | HoldfastError) -> None:
    if answer.done():
        return
    if isinstance(outcome, HoldfastError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _shown(outcome: object) -> str:
    """An outcome in a trace: short, and the same in each replay."""
    if isinstance(outcome, HoldfastError):
        return type(outcome).__name__
    if isinstance(outcome, Claimed):
        return f"claims {[record.id for record in outcome.runs]}, {outcome.expired} expired"
    if isinstance(outcome, list):
        listed: list[object] = outcome  # pyright: ignore[reportUnknownVariableType] - of any records
        return ", ".join(_member(each) for each in listed)
    return "" if outcome is None else type(outcome).__name__


def _member(outcome: object) -> str:
    key = getattr(outcome, "key", "")
    return f"{type(outcome).__name__}{'' if key == '' else f' {key}'}"
