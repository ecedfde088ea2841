"""Simulated users: they start runs, some of them twice or with the wrong input, send, and wait for results."""

import asyncio
from typing import Literal

import msgspec

from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import (
    ResultTimeoutError,
    RunBlockedError,
    RunConflictError,
    RunExistsError,
    StoreUnavailableError,
    TaskError,
    WorkflowNotFoundError,
)
from holdfast.stores.records import Message
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.programs import Program
from holdfast.testing.simulator.world import World

AGAIN_S = 1.0
"""Until a caller tries again what the store did not let it do."""


class Order(msgspec.Struct, frozen=True):
    """One start.

    Attributes:
        at_s: When, in virtual time.
        id: Of the run; others may want the same.
        waits_s: For its result.
        resumes: Whether it wants the run driven in its own process, and waits for ever.
        sends: Whether it sends the run a message that nobody reads.
    """

    at_s: float
    program: Program
    id: str
    input: int
    on_conflict: Literal["fail", "use_existing"]
    waits_s: float
    resumes: bool
    sends: bool


class Orderer:
    """A caller with one order, which it repeats in each life of its process until it is acknowledged."""

    def __init__(self, world: World, database: Database, order: Order) -> None:
        """Args: what it may look at to check what it is told, and what it wants."""
        self._world = world
        self._database = database
        self._order = order
        self._tried = False
        self.is_done = False

    async def go(self, engine: AsyncEngine) -> None:
        """See `Caller`."""
        order = self._order
        await asyncio.sleep(max(order.at_s - self._world.now_s, 0.0))
        while not self.is_done:
            try:
                handle = await self._start(engine)
                if handle is not None:
                    await self._wait(engine, handle)
                self.is_done = True
            except WorkflowNotFoundError:
                self._world.hits["start before any worker"] += 1
                await asyncio.sleep(AGAIN_S)
            except StoreUnavailableError:
                self._world.hits["start or read not answered"] += 1
                await asyncio.sleep(AGAIN_S)

    async def _start(self, engine: AsyncEngine) -> AsyncHandle | None:
        order, world = self._order, self._world
        again, self._tried = self._tried, True
        try:
            handle = await engine.start(
                order.program.name if not engine.is_driving else order.program.workflow,
                order.input,
                id=order.id,
                on_conflict="use_existing" if again else order.on_conflict,
            )
        except RunExistsError:
            world.hits["start of an id that exists"] += 1
            self._check(order.on_conflict == "fail", "told that the run exists")
            return None
        except RunConflictError:
            world.hits["start with another input"] += 1
            self._check(not self._is_mine(), "told of a conflict")
            return None
        world.note(f"start of {order.id} with {order.input} is acknowledged")
        self._check(self._is_mine(), "acknowledged")
        if order.sends:
            await self._send(order.id)
        return handle

    async def _send(self, run_id: str) -> None:
        """As a later client will: straight to the store, whoever holds the run."""
        row = self._database.find_row(run_id)
        if row is not None:
            self._world.hits["message"] += 1
            await self._database.commit([Message(run_key=row.key, kind="signal", id="m", payload=b"1")])

    async def _wait(self, engine: AsyncEngine, handle: AsyncHandle) -> None:
        order = self._order
        row = self._database.find_row(order.id)
        try:
            if order.resumes:
                self._world.hits["resume"] += 1
                output = await engine.resume(order.id)
            else:
                output = await handle.result(timeout=order.waits_s)
        except TaskError:
            self._check(row is not None and row.status == "failed", "told of a failure")
        except RunBlockedError:
            self._check(row is not None and row.status == "blocked", "told that it is blocked")
        except ResultTimeoutError:
            self._world.hits["result not in time"] += 1
        else:
            self._check(output == order.program.expected(order.input), f"given {output!r}")

    def _is_mine(self) -> bool:
        """Whether the run of that id has this workflow and this input."""
        order = self._order
        row = self._database.find_row(order.id)
        if row is None or row.new.workflow != order.program.name:
            return False
        return f"{order.input}".encode() in row.new.entries[0]

    def _check(self, holds: bool, text: str) -> None:  # noqa: FBT001 - like assert
        """Invariant 35, and that what callers are told is so."""
        if not holds:
            self._world.problem(f"a caller was {text}, wrongly: {self._order.id}, {self._order.input}")
