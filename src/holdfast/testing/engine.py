"""`TestEngine`: an engine in virtual time, for tests of workflows.

Time stands still while anything can happen without it: a body, a commit, a look for due runs. Only when
nothing can, it moves, and never further than to the next timer. So a test sees each thing at its own moment, in
the same order each time, and never waits.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.policies import Retention, retention_ms
from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import ResultTimeoutError, RunWaitingError, UsageError
from holdfast.errors.root import HoldfastError
from holdfast.ports import Chance, Ids, Threads
from holdfast.runtime.explain import Explanation
from holdfast.runtime.limits import CONCURRENCY, GRACE_MS
from holdfast.runtime.node import Ending, Node
from holdfast.runtime.retention import Sweeper
from holdfast.runtime.starts import Definable, OnConflict, bind_all
from holdfast.runtime.urls import is_postgres, store_at
from holdfast.stores.base import Store
from holdfast.stores.records import DEFAULT_QUEUE, ENDED
from holdfast.testing.bodies import Bodies
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Choose
from holdfast.testing.watched import WatchedAttempts, WatchedStore, never

QUIET_TURNS = 10
"""Turns of the event loop in which nothing was under way, before time may move: what a test's own tasks are
about to do comes first."""
SPINS = 200
SPIN_S = 0.001
"""So many turns are taken without a pause, as commits take; what takes longer is looked at once a ms."""
JUMPS_MAX = 100_000
"""Timers that may go by while one result is waited for: more than that is another run that sleeps for ever."""
EXIT_GRACE_S = 1.0
HURRY_S = 0.005
"""At the end of the block bodies that run get so much real time; those that sleep in virtual time get none."""
CHANCE = 0.5


class RunStuckError(RunWaitingError):
    """The run can never end as things are: it waits, and no timer is left that could change that."""

    code = "run_stuck"
    explanation: Explanation

    def __init__(self, *, explanation: Explanation) -> None:
        """Args: why it does not go on."""
        run_id, detail, action = explanation.run_id, explanation.detail, explanation.action
        HoldfastError.__init__(
            self,
            f"run {run_id!r} cannot end: {detail}; no timer is left that could change that"
            + (f": {action}" if action else ""),
            run_id=run_id,
            waiting=(detail,),
            explanation=explanation,
        )


class MiddleChance:
    """`Chance` that is always in the middle, so that jitter is the same in each test."""

    def random(self) -> float:
        """See `Chance`."""
        return CHANCE


class TestEngine(AsyncEngine):
    """`AsyncEngine` in virtual time: the same names, errors and guarantees.

        async with TestEngine(workflows=[flow], replace={"charge": lambda order: "paid"}) as env:
            handle = await env.start(flow, order)
            await env.advance("3d")
            await handle.signal("approval", True)
            assert await handle.result() == "shipped"

    Attributes:
        clock: The time that all of it goes by.
        bodies: What was called, by the names of tasks.
        attempts: What was called, by the places of the calls.
        crashed: Set when one of `faults` has ended it, as the end of a process does.
    """

    __test__ = False  # pytest takes a class of this name for tests

    def __init__(
        self,
        url: str = "memory://",
        *,
        workflows: Iterable[Definable] = (),
        replace: Mapping[str, Callable[..., Any]] | None = None,
        auto_skip: bool = True,
        clock: VirtualClock | None = None,
        worker: Literal["auto"] | bool = "auto",
        concurrency: int = CONCURRENCY,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        retention: Retention | None = None,
        store: Store | None = None,
        faults: Choose = never,
        ids: Ids | None = None,
        chance: Chance | None = None,
        threads: Threads | None = None,
    ) -> None:
        """Bind the workflows; nothing is opened before the `async with` block begins.

        Args:
            url: `memory://`, or `sqlite:///...` for a file that outlives this engine.
            workflows: As for `AsyncEngine`. Tasks with `executor="process"` run in a thread.
            replace: Functions to call instead of tasks, by name; see `replace`.
            auto_skip: Whether time passes by itself while a result is waited for and nothing else can happen.
            clock: Default a new one; give the same to an engine that goes on where another one was.
            worker: As for `AsyncEngine`.
            concurrency: As for `AsyncEngine`.
            queues: As for `AsyncEngine`.
            retention: As for `AsyncEngine`; runs are removed at the end of each `advance`.
            store: Instead of `url`: an object of the Store protocol that goes by `clock`.
            faults: Which commits fail, and how; see `FaultyStore`.
            ids: Where new names come from.
            chance: What jitter is made of; default always the middle.
            threads: Where sync bodies run.

        Raises:
            DefinitionError: A workflow cannot be built; `.problems` lists all of it.
            UsageError: A task in `replace` is not there, or a store that has a clock of its own.
        """
        self.clock = clock or VirtualClock()
        self.bodies = Bodies(replace or {})
        self.auto_skip = auto_skip
        self._store = WatchedStore(_store(url, store, worker, self.clock), faults)
        self.crashed = self._store.crashed
        given = list(workflows)
        for target in given:
            if not isinstance(target, Definable):
                raise UsageError(what=f"{target!r} is no Flow or Workflow", fix="pass what you built")
        durable = self._store.is_durable
        super().__init__(
            workflows=self.bodies.take_over(given, durable=durable),
            worker=worker,
            concurrency=concurrency,
            queues=queues,
            store=self._store,
            clock=self.clock,
            ids=ids,
            chance=chance or MiddleChance(),
            threads=threads,
        )
        self._node.worker.attempts = self.attempts = WatchedAttempts(self._node.worker.attempts, self.bodies)
        bound = bind_all(given, durable=durable)
        self._sweeper = Sweeper(self._store, bound, retention_ms(retention), self.clock)
        self._moving = asyncio.Lock()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End as `AsyncEngine` does, but let no body hold it up for more than a second."""
        loop = asyncio.get_running_loop()
        grace_until_s = loop.time() + EXIT_GRACE_S
        hurrying: list[asyncio.TimerHandle] = []

        def hurry() -> None:
            # The grace time of bodies is virtual like any other: it passes when somebody moves the clock.
            only_sleeps = self._node.worker.is_busy and self.is_at_rest
            if only_sleeps or loop.time() > grace_until_s:
                self.clock.advance(GRACE_MS)
            hurrying[:] = [loop.call_later(HURRY_S, hurry)]

        hurrying.append(loop.call_later(HURRY_S, hurry))
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            hurrying[0].cancel()

    async def start(
        self,
        workflow: Definable | str,
        input: object = None,
        *,
        id: str | None = None,
        on_conflict: OnConflict = "fail",
    ) -> "TestHandle":
        """See `AsyncEngine.start`."""
        run_id, ending = await self._node.start(workflow, input, run_id=id, on_conflict=on_conflict)
        return TestHandle(self, self._node, run_id, ending)

    async def get(self, id: str) -> "TestHandle":
        """See `AsyncEngine.get`."""
        await self._node.find(id)
        return TestHandle(self, self._node, id)

    async def retry(self, id: str, *, by: str = "") -> "TestHandle":
        """See `AsyncEngine.retry`."""
        await self._node.retry(id, by)
        return TestHandle(self, self._node, id)

    async def run(self, workflow: Definable | str, input: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """Start a run and return its output; see `TestHandle.result`."""
        handle = await self.start(workflow, input)
        return await handle.result()

    async def resume(self, id: str) -> Any:  # noqa: ANN401 - what the workflow returns
        """See `AsyncEngine.resume`."""
        await self._node.worker.resume(await self._node.find(id))
        return await (await self.get(id)).result()

    # Tasks.

    def replace(self, task: str, body: Callable[..., Any]) -> None:
        """Call `body` instead of the function of a task, from its next attempt on.

        Retries, time-out and types of the task stay as they are.

        Args:
            task: Name of the task, or of what a durable function calls with `ctx.step`: of the task or the
                function there.
            body: Any callable, sync or async, with the task's arguments or without: a function, a lambda, a
                mock. What it returns is the step's output, what it raises is its failure.

        Raises:
            UsageError: No such task, or nothing that a step can call. Where there are durable functions, any
                name is taken: what they call is not known before.
        """
        self.bodies.replace(task, body)

    def calls(self, task: str) -> list[Any]:
        """The arguments of all calls of a task so far, replaced or not; retries are calls of their own.

        A call with several arguments is a tuple of them. What durable functions call with `ctx.step` is listed
        by the name of the task or function, too.

        Raises:
            UsageError: No such task.
        """
        return self.bodies.calls(task)

    # Time.

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way: only time, or somebody outside, can change anything."""
        return self._store.calls == 0 and self._node.worker.under_way <= self.clock.bodies_asleep

    @property
    def commits(self) -> int:
        """How many commits have begun."""
        return self._store.commits

    async def settle(self) -> None:
        """Return when everything has happened that can happen now; no time passes."""
        async with self._moving:
            await self._settle()

    async def advance(self, duration: Duration) -> None:
        """Let time pass, from timer to timer; between them everything happens that can.

        When it returns, so much time has passed and the engine is at rest.

        Raises:
            UsageError: No duration, or the store goes by another clock.
        """
        until_ms = self.clock.monotonic_ms() + to_ms(duration)
        async with self._moving:
            await self._settle()
            while (wait_ms := self._next_in_ms()) <= until_ms - self.clock.monotonic_ms():
                self._jump(wait_ms)
                await self._settle()
            self._jump(until_ms - self.clock.monotonic_ms())
            await self._settle()
            await self._sweeper.sweep()

    async def sleep(self, duration: Duration) -> None:
        """Wait until so much virtual time has passed; for functions that stand in for slow tasks."""
        await self.clock.sleep(duration)

    async def skip(self, run_id: str, timeout: Duration | None) -> None:  # noqa: ASYNC109 - virtual time
        """Let time pass until a run is over or blocked; see `TestHandle.result`."""
        now_ms = self.clock.monotonic_ms
        until_ms = math.inf if timeout is None else now_ms() + to_ms(timeout, what="timeout")
        for _ in range(JUMPS_MAX):
            async with self._moving:
                await self._settle()
                status = (await self._node.find(run_id)).status
                if status in ENDED or status == "blocked":
                    return
                if not self.is_at_rest:
                    continue
                next_ms, left_ms = self._next_in_ms(), until_ms - now_ms()
                wait_ms = min(next_ms, left_ms)
                if wait_ms == math.inf:
                    break
                if left_ms <= 0 < next_ms:
                    timeout_ms = to_ms(timeout or 0)
                    raise ResultTimeoutError(run_id=run_id, timeout_ms=timeout_ms, status=status)
                self._jump(wait_ms)
        raise RunStuckError(explanation=await self._node.explain(run_id))

    async def _settle(self) -> None:
        self._node.worker.nudge()  # another process may have written to the same file
        turns, quiet = 0, 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0 if turns < SPINS else SPIN_S)
            turns += 1
            quiet = quiet + 1 if self.is_at_rest else 0

    def _next_in_ms(self) -> float:
        wait_ms = self.clock.next_in_ms()
        return math.inf if wait_ms is None else wait_ms

    def _jump(self, ms: float) -> None:
        before_ms = self._store.now_ms()
        self.clock.advance(ms)
        if self._store.now_ms() - before_ms < ms - 1:
            raise UsageError(
                what=f"the clock of store {self._store.url} did not move when that of the engine did",
                fix="make both with one clock, such as TestEngine(store=MemoryStore(clock), clock=clock)",
            )


class TestHandle(AsyncHandle):
    """`AsyncHandle` in virtual time; made by `TestEngine.start` and `get`."""

    __test__ = False  # as above

    def __init__(self, env: TestEngine, node: Node, run_id: str, ending: Ending | None = None) -> None:
        """Made by the engine."""
        super().__init__(node, run_id, ending)
        self._env = env

    async def result(self, timeout: Duration | None = None) -> Any:  # noqa: ANN401, ASYNC109 - what the workflow returns
        """Let time pass until the run is over, and return its output; see `AsyncHandle.result`.

        Time moves only when nothing else can happen. With `auto_skip=False`, or in an engine that does not
        drive, it waits until somebody else moves it.

        Args:
            timeout: How much virtual time to wait; default for ever.

        Raises:
            RunWaitingError: It waits for a signal or is paused, and no timer is left: it would wait for ever.
            TaskError, ResultTimeoutError, RunBlockedError: See `AsyncHandle.result`.
        """
        if self._env.auto_skip and self._env.is_driving:
            await self._env.skip(self.id, timeout)
            return await super().result()
        return await super().result(timeout)


def _store(url: str, store: Store | None, worker: Literal["auto"] | bool, clock: VirtualClock) -> Store:  # noqa: FBT001 - as the engine has it
    if store is None and not is_postgres(url):
        store = store_at(url, worker=worker, clock=clock)
    if store is None or store.lease is not None:
        raise UsageError(
            what="a database server, or a store with leases, has a clock of its own that no test can move",
            fix="use memory:// or a SQLite file",
        )
    return store
