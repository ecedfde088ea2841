"""The asyncio tasks of a run's active branches: attempt after attempt, each after the last one's commit."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol
from weakref import ref

from holdfast.core.effects import StartAttempt
from holdfast.core.events import AttemptEnded, BodyReported, Event
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.bodies import Bodies
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext
from holdfast.runtime.host import Driving, Host
from holdfast.runtime.limits import ATTEMPTS_PER_TURN
from holdfast.runtime.reports import Kind, Reports

Next = asyncio.Future[StartAttempt | None] | StartAttempt | None


class Leader(Driving, Protocol):
    """The driver, as the tasks of its branches see it."""

    is_dropped: bool
    bound: BoundWorkflow

    def attempts_ended(self) -> None:
        """A branch has nothing to attempt any more, and was not answered."""
        ...


class Branches:
    """Tasks by branch, and what they wait for.

    Attributes:
        live: Their tasks.
        bodies: Of those whose step takes a `Context`; None before the first one.
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_driver",
        "_facts",
        "_host",
        "_loop",
        "_replies",
        "_reports",
        "bodies",
        "live",
    )

    def __init__(self, driver: Leader, host: Host, facts: RunFacts) -> None:
        """Args: who drives the run, the worker, and facts about the run."""
        self._driver = driver
        self._host = host
        self._facts = facts
        self._loop = asyncio.get_running_loop()
        # Of branches whose outcome is on its way: who waits for the answer, or None who is about to.
        self._replies: dict[str, asyncio.Future[StartAttempt | None] | None] = {}
        self._answer: StartAttempt | None = None
        self.live: dict[str, asyncio.Task[None]] = {}
        # A crowd of runs is quick if each is small: what few of them need is made when they do.
        self._reports: Reports | None = None
        self.bodies: Bodies | None = None
        facts.listener = ref(self)

    @property
    def running(self) -> int:
        """How many run code."""
        return len(self.live) - (0 if self.bodies is None else self.bodies.waiting)

    @property
    def are_reported(self) -> bool:
        """Whether each has an outcome on its way to the store."""
        return len(self.live) <= len(self._replies)

    def begin(self, effect: StartAttempt) -> None:
        """Make an attempt in the task that waits for its commit, or in a new one."""
        branch = effect.branch
        if branch not in self._replies:
            self.live[branch] = self._host.spawn(self._drive(effect))
            self._driver.note_slot()
            return
        future = self._replies.pop(branch)
        if future is None:
            self._answer = effect
        elif not future.done():
            future.set_result(effect)

    def end(self, branches: Iterable[str]) -> None:
        """Those of them that wait for their commit owe nothing more."""
        for branch in branches:
            if branch in self._replies:
                del self.live[branch]
                future = self._replies.pop(branch)
                if future is not None and not future.done():
                    future.set_result(None)

    def cancel(self) -> None:
        """Cancel all of them, without a trace."""
        for task in self.live.values():
            task.cancel()
        self.live.clear()
        self._replies.clear()
        if self.bodies is not None:
            self.bodies.drop()
        if self._reports is not None:
            self._reports.stop()

    def report(self, at: StartAttempt, key: str, kind: Kind, payload: bytes) -> None:
        """See `Listener`."""
        event = BodyReported(at.branch, at.step, at.visit, at.attempt, key, kind, payload)
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - None in a thread, where the public one raises
            self._take(event)
        else:
            self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: BodyReported) -> None:
        self._listening().take(event)

    def _listening(self) -> Reports:
        if self._reports is None:
            self._reports = Reports(self._driver, self._host)
        return self._reports

    def _with_bodies(self) -> Bodies:
        if self.bodies is None:
            self.bodies = Bodies(self._driver, self._host, self._facts, self._listening())
        return self.bodies

    async def _drive(self, effect: StartAttempt | None) -> None:
        driver, facts = self._driver, self._facts
        branches, steps = driver.run.branches, driver.bound.steps
        make, has_lapsed = self._host.attempts.make, self._host.has_lapsed
        made = 0
        while effect is not None and not has_lapsed():
            step = steps[effect.step]
            if step.takes_context:
                ended = await self._with_bodies().run(effect, step)
                if ended is None:
                    driver.attempts_ended()
                    break
                answer = self._report(*ended)
            else:
                branch = branches[effect.branch]
                CURRENT.set(TaskContext(facts, effect, branch.heartbeat))
                answer = self._report(await make(effect, step, branch.value))
            if answer is not None and not isinstance(answer, StartAttempt):
                effect = await answer
                continue
            effect = answer
            made += 1
            if made % ATTEMPTS_PER_TURN == 0:
                # Nothing had to wait, so others in this loop have not had their turn.
                await asyncio.sleep(0)

    def _report(self, event: AttemptEnded, before: Sequence[Event] = ()) -> Next:
        """Hand over an outcome, and what comes before it; gives the next attempt, or None, once committed."""
        driver = self._driver
        if driver.is_dropped:
            return None  # a body that was told to stop has answered all the same
        branch = event.branch
        self._replies[branch] = self._answer = None
        reports = self._reports
        driver.operate((event,) if reports is None else (*before, *reports.rest(branch), event))
        if branch not in self._replies:
            return self._answer  # an instant store has committed it already
        future: asyncio.Future[StartAttempt | None] = self._loop.create_future()
        self._replies[branch] = future
        return future
