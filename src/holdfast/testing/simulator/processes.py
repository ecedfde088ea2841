"""Simulated processes: the real engine on virtual ports, killed, frozen, blocked, stopped and started again."""

import asyncio
import contextlib
import contextvars
import random  # noqa: TID251 - the seeded generator of a simulation
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from holdfast.engine import AsyncEngine
from holdfast.errors import StoreUnavailableError
from holdfast.ports import Ids
from holdfast.runtime.context import TaskContext, get_task_context
from holdfast.testing.simulator.checks import Checks
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.deeds import Deed
from holdfast.testing.simulator.loop import LANE, Lane
from holdfast.testing.simulator.network import Hints, Line
from holdfast.testing.simulator.ports import BodyError, SimulatedClock, SimulatedHeart, SimulatedThreads
from holdfast.testing.simulator.programs import Program
from holdfast.testing.simulator.steps import Step
from holdfast.testing.simulator.world import World

SKEW_MS = 120_000
"""How wrong the wall clock of a machine is, at most, before anyone changes it."""
TIDYING = 0.25
"""Part of the durable functions that take time to leave, as those do that close what they have opened."""
RESTART_MS = (20.0, 30_000.0)
RESTART_S = 0.5
"""Until a process starts again, while there are faults and when there are none."""


class Caller(Protocol):
    """A user's program in a process."""

    async def go(self, engine: AsyncEngine) -> None:
        """Do what is left to do; called again in the next life of the process."""
        ...


class Shared:
    """What the processes of a simulation share."""

    def __init__(
        self, world: World, database: Database, checks: Checks, ids: Ids, programs: Sequence[Program]
    ) -> None:
        """Args: the parts; `programs` may still be empty."""
        self.world = world
        self.database = database
        self.checks = checks
        self.hints = Hints(world)
        self.ids = ids
        self.programs = programs


class Process:
    """One life of a process.

    Attributes:
        name: With the number of its life.
        is_worker: Whether it drives runs.
        is_alive: False from the moment it is killed or has ended.
        since_s: When it was started.
        concurrency: Of its engine.
        identities: Names under which it has held runs.
        lane: Its event loop.
        clock: Its clocks.
        threads: Where its sync bodies run.
    """

    def __init__(self, shared: Shared, name: str, callers: Sequence[Caller], *, is_worker: bool) -> None:
        """Start it."""
        world = shared.world
        self.name = name
        self.is_worker = is_worker
        self.is_alive = True
        self.since_s = world.now_s
        self.identities: list[str] = []
        self.lane = Lane(name, self)
        self._thread_lane = Lane(f"{name} threads", self)
        chance = world.chance
        offset_ms, skew_ms = chance.uniform(0, 1e6), int(chance.uniform(-SKEW_MS, SKEW_MS))
        self.clock = SimulatedClock(world, offset_ms=offset_ms, skew_ms=skew_ms)
        self.threads = SimulatedThreads(world, self.lane, self._thread_lane)
        self._shared = shared
        self._world = world
        self._callers = callers
        self.concurrency = chance.choice([1, 2, 8])
        self._stopping = asyncio.Event()
        world.note(f"{name} starts")
        context = contextvars.copy_context()
        context.run(LANE.set, self.lane)
        self.life = world.loop.create_task(self._live(), context=context)
        """Done when it has ended by itself."""

    async def _live(self) -> None:
        shared = self._shared
        line = Line(self._world, shared.database, shared.checks, shared.hints, self)
        engine = AsyncEngine(
            store=line,
            workflows=[program.workflow for program in shared.programs] if self.is_worker else [],
            concurrency=self.concurrency,
            clock=self.clock,
            ids=shared.ids,
            chance=self._world.chance,
            heart=SimulatedHeart(self._world, self.clock, self._thread_lane),
            threads=self.threads,
        )
        # A store that is out of reach at the start ends a process; whoever watches over it starts it again.
        with contextlib.suppress(StoreUnavailableError):
            async with engine, asyncio.TaskGroup() as tasks:
                calling = [tasks.create_task(caller.go(engine)) for caller in self._callers]
                await self._stopping.wait()
                for task in calling:
                    task.cancel()

    def stop(self) -> None:
        """SIGTERM: drain, and end."""
        self._world.loop.post(self.lane, 0.0, self._stopping.set)

    def kill(self) -> None:
        """SIGKILL: nothing of it happens any more, also not what it is about to do."""
        if self.is_alive:
            self.is_alive = False
            self._world.note(f"{self.name} is dead")
            self._world.loop.pause(self.lane)
            self._world.loop.pause(self._thread_lane)
            self._world.loop.urge(self.bury)

    def bury(self) -> None:
        """Let go of all that a dead process leaves behind."""
        self.is_alive = False
        for lane in (self._thread_lane, self.lane):
            if not self._world.loop.bury(lane):
                self._world.problem(f"{lane.name} has tasks that do not end when they are cancelled")

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self._pause(self.lane, seconds)
        self._pause(self._thread_lane, seconds)

    def block(self, seconds: float) -> None:
        """User code does not let the event loop go on."""
        self._pause(self.lane, seconds)

    def _pause(self, lane: Lane, seconds: float) -> None:
        loop = self._world.loop
        loop.pause(lane)
        loop.post(loop.outside, seconds, partial(loop.resume, lane))


class Slot:
    """A place where processes follow one another: whoever dies is started again, under a new name.

    Attributes:
        process: The one that lives, or died last.
    """

    def __init__(self, shared: Shared, name: str, callers: Sequence[Caller], *, is_worker: bool) -> None:
        """Start the first process."""
        self._shared = shared
        self._name = name
        self._callers = callers
        self._is_worker = is_worker
        self._lives = 0
        self._is_closed = False
        self.process = self._begin()

    def close(self) -> None:
        """End the process, and start no other."""
        self._is_closed = True
        self.process.bury()

    def _begin(self) -> Process:
        self._lives += 1
        name = f"{self._name}.{self._lives}"
        process = Process(self._shared, name, self._callers, is_worker=self._is_worker)
        process.life.add_done_callback(self._ended, context=contextvars.Context())
        return process

    def _ended(self, life: asyncio.Task[None]) -> None:
        world, process = self._shared.world, self.process
        if self._is_closed:
            return
        if process.is_alive:
            error = None if life.cancelled() else life.exception()
            if error is not None:
                world.problem(f"{process.name} has ended with {_leaves(error)}")
            process.kill()
        wait_s = RESTART_S if world.is_healed else world.span_s(*RESTART_MS)
        world.loop.post(world.loop.outside, wait_s, self._begin_again)

    def _begin_again(self) -> None:
        if not self._is_closed:
            self.process = self._begin()


def _leaves(error: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return ", ".join(_leaves(each) for each in inner) if inner else repr(error)


class Bodies:
    """`Body` of all programs: finds the process that it is called in, and does the deed there."""

    def __init__(self, world: World, deeds: "Deeds") -> None:
        """Args: the world, and what is to be done; `checks` is set before anything runs."""
        self._world = world
        self._deeds = deeds
        self.checks: Checks | None = None
        self._fresh = 0

    def begin(self, step: Step, value: object) -> Deed:
        """See `Body`."""
        process, context = _here()
        if self.checks is None or not process.is_alive:
            return Deed("returns")
        deed = self._deeds.of(step, context, self.checks.life(context))
        self._world.note(f"{process.name} begins {context.idempotency_key}#{context.attempt} {deed.kind}")
        self._world.hits[f"deed {deed.kind}"] += 1
        self.checks.begins(process, context, step, deed, value)
        return deed

    async def carry_out(self, step: Step, deed: Deed) -> None:
        """See `Body`."""
        process, _ = _here()
        match deed.kind:
            case "hangs" | "defies":
                await self._world.loop.create_future()
            case "blocks":
                process.block(deed.seconds)
                await asyncio.sleep(0)
            case _:
                await asyncio.sleep(deed.seconds)
        if deed.kind == "raises":
            raise BodyError(step.name)
        if deed.kind == "kills":
            process.kill()
            await self._world.loop.create_future()

    def carry_out_now(self, step: Step, deed: Deed) -> None:
        """See `Body`."""
        process, _ = _here()
        process.threads.spend(deed.seconds)
        if deed.kind == "raises":
            raise BodyError(step.name)
        if deed.kind == "kills":
            process.kill()

    def end(self, output: object) -> None:
        """See `Body`."""
        del output
        process, context = _here()
        if self.checks is not None and process.is_alive:
            self._world.note(f"{process.name} ends {context.idempotency_key}#{context.attempt}")
            self.checks.returns(context)

    def enter(self, name: str) -> None:
        """See `Body`."""
        process, context = _here()
        if self.checks is not None and process.is_alive:
            self._world.note(f"{process.name} enters {name} of {context.idempotency_key}")
            self.checks.enters(process, context)

    def tidies_s(self, name: str) -> float:
        """See `Body`. The same for all runs of a program; most functions do at once."""
        drawn = random.Random(f"{self._world.seed} tidies {name}").random()  # noqa: S311 - no secret
        return drawn * 2 if drawn < TIDYING else 0.0

    def fresh(self, name: str) -> int:
        """See `Body`."""
        process, context = _here()
        self._fresh += 1
        if process.is_alive:
            self._world.note(f"{process.name} calls for {name} of {context.idempotency_key}")
        return self._fresh


class Deeds(Protocol):
    """What bodies are to do."""

    def of(self, step: Step, context: TaskContext, life: int) -> Deed:
        """The deed of an attempt that begins; `life` as of `Called`."""
        ...


def _here() -> tuple[Process, TaskContext]:
    lane, context = LANE.get(), get_task_context()
    if lane is None or context is None or not isinstance(lane.owner, Process):
        raise RuntimeError("a body runs in a process, as an attempt")
    return lane.owner, context
