"""One process after another on one store, in virtual time; each ends in its own way."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from holdfast.definition.workflow import Workflow
from holdfast.engine import AsyncEngine
from holdfast.errors import HoldfastError
from holdfast.stores.base import Store
from holdfast.stores.records import Member, Outcome
from holdfast.testing import TestEngine
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Ask, Fault, T

REST_S = 20
"""Real time in which an engine must come to rest; it takes milliseconds."""
DYING_TURNS = 3
FAULTY_CALLS = frozenset({"replace", "delete"})
"""Calls beside commits that change something."""


class Unknown:
    """The process died before it had an answer."""


UNKNOWN = Unknown()


class Lives:
    """Has a live engine at any time but inside its own methods.

    Attributes:
        env: The engine.
        armed: A fault, and at which commit from now on it strikes.
    """

    def __init__(
        self,
        reopen: Callable[[VirtualClock], Store],
        clock: VirtualClock,
        flows: Sequence[Workflow],
        *,
        is_quick: bool,
    ) -> None:
        """Args: the same store for each process; and whether it commits on the loop's thread where it can."""
        self.clock = clock
        self.armed: tuple[int, Fault] | None = None
        self._reopen = reopen
        self._flows = flows
        self._is_quick = is_quick
        self.loop = asyncio.new_event_loop()
        self.store: Store
        self.env: TestEngine
        self._life: asyncio.Task[None]
        self._closing: asyncio.Event
        self.loop.run_until_complete(self._open())

    def do(self, ask: Callable[[TestEngine], Awaitable[object]]) -> tuple[object, bool]:
        """Do something, and let happen what can happen now.

        Returns:
            What it gave or raised, and whether the process has died of it; then there is a new one, at rest.
        """
        return self.loop.run_until_complete(self._do(ask))

    def look(self, ask: Callable[[TestEngine, Store], Awaitable[T]]) -> T:
        """Read something."""
        return self.loop.run_until_complete(ask(self.env, self.store))

    def kill(self, down_ms: int) -> None:
        """The process dies while it is at rest; the next one begins some time later."""
        self.loop.run_until_complete(self._kill(down_ms))

    def close(self, down_ms: int) -> None:
        """The process ends as it should; the next one begins some time later."""
        self.loop.run_until_complete(self._close(down_ms))

    def end(self) -> None:
        """No next one."""
        self.loop.run_until_complete(self._die())
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left))
        self.loop.close()

    async def _do(self, ask: Callable[[TestEngine], Awaitable[object]]) -> tuple[object, bool]:
        env, answer = self.env, [UNKNOWN]

        async def act() -> None:
            try:
                answer[0] = await ask(env)
            except HoldfastError as error:
                answer[0] = error
            await env.advance(0)

        acting, crashing = self.loop.create_task(act()), self.loop.create_task(env.crashed.wait())
        await asyncio.wait({acting, crashing, self._life}, timeout=REST_S, return_when=asyncio.FIRST_COMPLETED)
        crashing.cancel()
        has_crashed = env.crashed.is_set()
        self.armed = None
        if has_crashed:
            acting.cancel()
            await asyncio.wait({acting, crashing})
            await self._kill(0)
        else:
            is_done = acting.done()
            acting.cancel()
            if self._life.done():
                self._life.result()
            assert is_done, "the engine does not come to rest"
            acting.result()
        return answer[0], has_crashed

    async def _kill(self, down_ms: int) -> None:
        await self._die()
        self.clock.advance(down_ms)
        await self._open()

    async def _close(self, down_ms: int) -> None:
        self.armed = None
        self._closing.set()
        async with asyncio.timeout(REST_S):
            await self._life
        self.clock.advance(down_ms)
        await self._open()

    async def _die(self) -> None:
        """Told once it would wait for its bodies; told again it waits for nothing."""
        self.env.crashed.set()
        self._life.cancel()
        for _ in range(DYING_TURNS):
            await asyncio.sleep(0)
        self._life.cancel()
        await asyncio.wait({self._life}, timeout=REST_S)
        assert self._life.done(), "the engine does not end"

    async def _open(self) -> None:
        self.armed = None
        self.store = self._reopen(self.clock)
        self.env = TestEngine(store=self.store, clock=self.clock, workflows=self._flows, faults=self._choose)
        self._instrument(self.env)
        self._closing, opened = asyncio.Event(), asyncio.Event()
        self._life = self.loop.create_task(self._live(self.env, opened, self._closing))
        waiting = self.loop.create_task(opened.wait())
        await asyncio.wait({self._life, waiting}, timeout=REST_S, return_when=asyncio.FIRST_COMPLETED)
        assert opened.is_set(), "the engine does not open"
        async with asyncio.timeout(REST_S):
            await self.env.advance(0)

    async def _live(self, env: TestEngine, opened: asyncio.Event, closing: asyncio.Event) -> None:
        await env.__aenter__()
        try:
            opened.set()
            await closing.wait()
        finally:
            # `TestEngine` would move the clock for bodies that are in its way; here none is.
            await AsyncEngine.__aexit__(env, *sys.exc_info())

    def _choose(self, number: int, group: Sequence[Member]) -> Fault:
        del number, group
        if self.armed is None:
            return Fault.NONE
        left, fault = self.armed
        self.armed = (left - 1, fault) if left > 1 else None
        return Fault.NONE if left > 1 else fault

    def _instrument(self, env: TestEngine) -> None:
        """Let faults strike at calls that change something, too, and commits take the short way in between."""
        watched, reach, inner = env._store, env._store._reach, self.store

        async def reach_or_fail(call: str, ask: Ask[T]) -> T:
            fault = self._choose(0, ()) if call in FAULTY_CALLS else Fault.NONE
            if fault is Fault.CRASH_BEFORE:
                env.crashed.set()
            gave: Any = await reach(call, ask)
            if fault is Fault.CRASH_AFTER:
                env.crashed.set()
                await reach(call, ask)
            return gave

        def commit_now(group: Sequence[Member]) -> list[Outcome] | None:
            may = self._is_quick and self.armed is None and not env.crashed.is_set()
            return inner.commit_now(group) if may else None

        watched.__dict__["_reach"] = reach_or_fail
        watched.__dict__["commit_now"] = commit_now
