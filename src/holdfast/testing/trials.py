"""One run of a workflow that is crashed once and goes on: what `crash_everywhere` repeats."""

import asyncio
import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.codecs.entries import decode_entry
from holdfast.core.entries import Entry
from holdfast.definition.duration import Duration, to_ms
from holdfast.errors import HoldfastError, RunStateError, TaskError
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import ENDED, Append, Member, Message, NewRun
from holdfast.testing.clock import VirtualClock
from holdfast.testing.engine import TestEngine, TestHandle
from holdfast.testing.faults import Choose, Fault
from holdfast.testing.recorded import Journal, Key, list_records, read_journals
from holdfast.testing.watched import never

RUN_ID = "crashed"
DYING_TURNS = 10
"""Turns of the event loop after which a process that was told to end waits for its bodies."""
STRAGGLERS_S = 5.0
"""How long bodies in threads that outlive a crash are waited for: their effects belong before the recovery."""


class Sending(NamedTuple):
    """A signal of a scene: sent so long after the start of the run."""

    after_ms: int
    name: str
    payload: Any


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is run again and again.

    Attributes:
        workflow, input: What is started.
        others: What it starts as children, and they.
        queues: Where they are.
        signals: What it is sent, in the order of sending.
        replace: See `TestEngine`.
        reset: Called before each run: puts the outside world back to how it was.
        effects: Called after each run: what has become of the outside world; None if nobody looks.
        folder: Where SQLite files are made; None for memory.
    """

    workflow: Definable
    input: object
    others: Sequence[Definable]
    queues: Sequence[str]
    signals: Sequence[Sending]
    replace: Mapping[str, Callable[..., Any]]
    reset: Callable[[], object]
    effects: Callable[[], object] | None
    folder: Path | None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came of a trial.

    Attributes:
        has_crashed: Whether the fault struck at all.
        what: What the commit was about that was crashed.
        commits: How many there were in the first life.
        before, journals: The journals of all runs at the crash, and in the end.
        lives: The calls of bodies before the crash, and after it.
        functions: Those that were bodies of durable functions.
        outcome: Status with output or failure; or the error of a run that did not end.
        effects: See `Scene`.
        tasks: Name of the task of each step that was called, and of what each operation called, by its key.
    """

    has_crashed: bool
    what: str
    commits: int
    before: Mapping[str, Journal]
    journals: Mapping[str, Journal]
    lives: Sequence[Counter[Key]]
    functions: Collection[Key]
    outcome: object
    effects: object
    tasks: Mapping[str, str]


class TrialEngine(TestEngine):
    """`TestEngine` of one life of a trial."""

    def __init__(self, scene: Scene, store: Store, clock: VirtualClock, faults: Choose) -> None:
        """Args: what is run, where, by which clock, and which commits fail."""
        super().__init__(
            workflows=[scene.workflow, *scene.others],
            queues=scene.queues,
            replace=scene.replace,
            clock=clock,
            store=store,
            faults=faults,
        )

    @property
    def tasks(self) -> dict[str, str]:
        """What was called, by step or operation."""
        return {each.operation or each.step: each.task for each in self.bodies.called}


class Trial:
    """One run, with one fault at one of its commits, on a store and a clock of its own."""

    def __init__(self, scene: Scene, number: int, fault: Fault) -> None:
        """Args: what is run, and what happens at which commit (from 1)."""
        self.clock = VirtualClock()
        self._scene = scene
        self._number = number
        self._fault = fault
        self._begin_ms = self.clock.monotonic_ms()
        self._memory = MemoryStore(self.clock)
        self._sent = 0
        self._what = ""
        self._lives: list[TrialEngine] = []
        self._journals: dict[str, Journal] = {}

    async def run(self) -> Ended:
        """Run until the fault or the end, and after a fault until the end."""
        scene = self._scene
        scene.reset()
        env, outcome = await self._live(self._choose)
        before = self._journals
        if env.crashed.is_set():
            _, outcome = await self._live()
        return Ended(
            has_crashed=env.crashed.is_set(),
            what=self._what,
            commits=env.commits,
            before=before,
            journals=self._journals,
            lives=[Counter(life.attempts.called) for life in self._lives],
            functions={key for life in self._lives for key in life.attempts.functions},
            outcome=outcome,
            effects=None if scene.effects is None else copy.deepcopy(scene.effects()),
            tasks={step: task for life in self._lives for step, task in life.tasks.items()},
        )

    def _choose(self, number: int, group: Sequence[Member]) -> Fault:
        if number != self._number:
            return Fault.NONE
        self._what = ", ".join(part for member in group for part in _told(member, number))
        return self._fault

    async def _live(self, faults: Choose = never) -> tuple[TrialEngine, object]:
        """The life of one process: until it crashes, or the run has ended."""
        store = self._reopened()
        env = TrialEngine(self._scene, store, self.clock, faults)
        async with asyncio.TaskGroup() as tasks:
            driving = tasks.create_task(self._drive(env, store))
            crashing = tasks.create_task(env.crashed.wait())
            await asyncio.wait({driving, crashing}, return_when=asyncio.FIRST_COMPLETED)
            crashing.cancel()
            if env.crashed.is_set():
                # The dead process has the store open, and cannot write to it any more.
                self._journals = await read_journals(store)
                await _kill(driving)
        self._lives.append(env)
        await _stragglers(env)
        return env, None if driving.cancelled() else driving.result()

    async def _drive(self, env: TestEngine, store: Store) -> object:
        async with env:
            outcome: object
            try:
                outcome = await self._outcome(env, is_new=await store.find_run(RUN_ID) is None)
                await _others(env, store)
            except HoldfastError as error:
                outcome = error
            self._journals = await read_journals(store)
            return outcome

    async def _outcome(self, env: TestEngine, *, is_new: bool) -> object:
        scene = self._scene
        # A run that has begun anew has another input by now: it is found, and not started again.
        handle = await (env.start(scene.workflow, scene.input, id=RUN_ID) if is_new else env.get(RUN_ID))
        await self._send(env, handle)
        try:
            return "completed", await handle.result()
        except TaskError as error:
            return error.status, None if error.failure is None else error.failure.summary()

    async def _send(self, env: TestEngine, handle: TestHandle) -> None:
        """Send what was not acknowledged yet, each at its time; a run that is over takes no more."""
        for number, signal in enumerate(self._scene.signals[self._sent :], start=self._sent):
            wait_ms = self._begin_ms + signal.after_ms - self.clock.monotonic_ms()
            if wait_ms > 0:
                await env.advance(wait_ms / 1_000)
            try:
                await handle.signal(signal.name, signal.payload, id=f"signal-{number}")
            except RunStateError:
                return
            self._sent = number + 1

    def _reopened(self) -> Store:
        if self._scene.folder is None:
            return self._memory
        path = self._scene.folder / f"crash-{self._fault.name.lower()}-{self._number}.db"
        return store_at(f"sqlite:///{path.resolve()}", worker=True, clock=self.clock)


def sendings(signals: Sequence[tuple[str, object] | tuple[str, object, Duration]]) -> list[Sending]:
    """Signals as users give them, in the order of sending."""
    given = [Sending(to_ms(each[2]) if len(each) > 2 else 0, each[0], each[1]) for each in signals]  # noqa: PLR2004
    return sorted(given, key=lambda sending: sending.after_ms)


async def _others(env: TestEngine, store: Store) -> None:
    """Wait for the runs that the run has left behind: children that nobody waits for."""
    while left := [record.id for record in await list_records(store) if record.status not in ENDED]:
        for run_id in left:
            with contextlib.suppress(TaskError):
                await (await env.get(run_id)).result()


async def _kill(life: asyncio.Task[object]) -> None:
    """End a life without mercy: told once it would wait for its bodies, told again it waits for nothing."""
    life.cancel()
    for _ in range(DYING_TURNS):
        await asyncio.sleep(0)
    life.cancel()
    await asyncio.wait({life})


async def _stragglers(env: TrialEngine) -> None:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + STRAGGLERS_S
    while env.attempts.running and loop.time() < until_s:  # noqa: ASYNC110 - a thread sets no event
        await asyncio.sleep(0.001)


def _told(member: Member, number: int) -> list[str]:
    match member:
        case NewRun():
            return ["the start of the run" if number == 1 else "the run beginning anew"]
        case Message():
            return [f"signal {member.name!r}"]
        case Append(entries=entries) if entries:
            return [_name(decode_entry(data, run_id=RUN_ID, position=0)) for data in entries]
        case _:
            return ["giving the run back"]


def _name(entry: Entry) -> str:
    step, key = getattr(entry, "step", ""), getattr(entry, "key", "")
    operation = f" of {key!r} in step {step!r}" if key else f" of step {step!r}" if step else ""
    return f"{type(entry).__name__}{operation}"
