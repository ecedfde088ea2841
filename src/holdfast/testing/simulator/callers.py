"""Simulated users: they start runs, some of them twice or with the wrong input, and wait for results."""

import asyncio
from typing import Literal

import msgspec

from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import (
    ResultTimeoutError,
    RunBlockedError,
    RunConflictError,
    RunExistsError,
    RunNotFoundError,
    StoreUnavailableError,
    TaskError,
    WorkflowNotFoundError,
)
from holdfast.testing.simulator.answers import Answers
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
        resumes: Whether it wants the run driven in its own process.
    """

    at_s: float
    program: Program
    id: str
    input: int
    on_conflict: Literal["fail", "use_existing"]
    waits_s: float
    resumes: bool


class Orderer:
    """A caller with one order, which it repeats in each life of its process until it is acknowledged."""

    def __init__(self, world: World, answers: Answers, order: Order) -> None:
        """Args: the world, who judges what it is told, and what it wants."""
        self._world = world
        self._answers = answers
        self._order = order
        self._since_s: float | None = None
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
        order, world, answers = self._order, self._world, self._answers
        again = self._since_s is not None
        since_s = self._since_s = world.now_s if self._since_s is None else self._since_s
        try:
            handle = await engine.start(
                order.program.name if not engine.is_driving else order.program.workflow,
                order.input,
                id=order.id,
                on_conflict="use_existing" if again else order.on_conflict,
            )
        except RunExistsError:
            world.hits["start of an id that exists"] += 1
            answers.exists(order.id, since_s)
            return None
        except RunConflictError:
            world.hits["start with another input"] += 1
            answers.is_run(order.id, order.program.name, order.input, since_s, is_other=True)
            return None
        world.note(f"start of {order.id} with {order.input} is acknowledged")
        answers.is_run(order.id, order.program.name, order.input, since_s)
        return handle

    async def _wait(self, engine: AsyncEngine, handle: AsyncHandle) -> None:
        order, answers, since_s = self._order, self._answers, self._world.now_s
        try:
            if order.resumes:
                self._world.hits["resume"] += 1
                async with asyncio.timeout(2 * order.waits_s):
                    output = await engine.resume(order.id)
            else:
                output = await handle.result(timeout=order.waits_s)
        except TaskError as error:
            answers.is_in(order.id, [error.status], since_s)
        except RunBlockedError:
            answers.is_in(order.id, ["blocked"], since_s)
        except RunNotFoundError:
            answers.absent(order.id, since_s)
        except (ResultTimeoutError, TimeoutError):
            self._world.hits["result not in time"] += 1
        else:
            answers.has_output(order.id, output)
