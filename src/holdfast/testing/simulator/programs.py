"""Programs: workflows of tasks, sleeps, waits, pauses, loops and forks, and what they must come to.

What a run of a program must come to is said here once more, over the parts that were drawn and the signals that
the run has received: it knows nothing of journals.
"""

import asyncio
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from holdfast.definition import step as graph
from holdfast.definition.policies import Retry
from holdfast.definition.task import Task, task
from holdfast.definition.workflow import Workflow
from holdfast.testing.simulator.deeds import SLOW_S, Deed

TIMED_OUT = "timed out"
"""Instead of a payload: no signal came in time."""
Received = Mapping[tuple[str, int], object]
"""By step and visit what a wait ended with: a payload, or `TIMED_OUT`."""


class Step(msgspec.Struct, frozen=True):
    """A task step of a program."""

    name: str
    is_async: bool
    timeout_s: float | None
    retries: int
    delay_s: float

    @property
    def worst_s(self) -> float:
        """All its attempts and the waits between them, at most."""
        longest = max(SLOW_S, self.timeout_s or 0.0)
        return (self.retries + 1) * longest + self.delay_s * (2.0**self.retries - 1)


class Nap(msgspec.Struct, frozen=True):
    """A sleep: for so long, or until a moment."""

    name: str
    for_ms: int | None
    until_ms: int | None


class Wait(msgspec.Struct, frozen=True):
    """A wait for a signal; `instead` is the step that is called when the time is up."""

    name: str
    signal: str
    timeout_ms: int | None = None
    instead: Step | None = None


class Halt(msgspec.Struct, frozen=True):
    """A pause step."""

    name: str


class Loop(msgspec.Struct, frozen=True):
    """A wait, a step with the payload, the wait again, until no signal comes in time: then `wait.instead`."""

    wait: Wait
    body: Step


class Fork(msgspec.Struct, frozen=True):
    """Parallel branches, and the step after their join."""

    name: str
    branches: tuple[tuple["Leaf", ...], ...]
    after: Step


Leaf = Step | Nap | Wait | Halt | Loop
Part = Leaf | Fork


class Body(Protocol):
    """What happens in a simulated process when a body is called."""

    def begin(self, step: Step) -> Deed:
        """Record that an attempt begins; gives what it does."""
        ...

    async def carry_out(self, step: Step, deed: Deed) -> None:
        """Take the time of an async body, or raise what it raises."""
        ...

    def carry_out_now(self, step: Step, deed: Deed) -> None:
        """Do the same in a thread."""
        ...

    def end(self, output: object) -> None:
        """Record that the body returns."""
        ...


class Program:
    """A workflow with its bodies.

    Attributes:
        name: Of the workflow.
        parts: What it does, in order.
        timeout_s: Bound of a run, or None.
        workflow: To give to engines.
        steps: All task steps, by name.
        waits, halts: All waits and pauses.
        branches: Names that branches may have.
        held_back: Steps that nobody comes to but by a pause.
    """

    def __init__(
        self,
        name: str,
        parts: tuple[Part, ...],
        body: Body,
        *,
        timeout_s: float | None = None,
        kept_s: float | None = None,
    ) -> None:
        """Build the workflow; runs that are over are kept for `kept_s`, or for ever."""
        self.name = name
        self.parts = parts
        self.timeout_s = timeout_s
        leaves = [leaf for part in parts for leaf in _leaves(part)]
        self.steps = {step.name: step for leaf in leaves for step in _tasks_of(leaf)}
        self.waits = [
            leaf.wait if isinstance(leaf, Loop) else leaf for leaf in leaves if isinstance(leaf, Wait | Loop)
        ]
        self.halts = [leaf for leaf in leaves if isinstance(leaf, Halt)]
        forks = [part for part in parts if isinstance(part, Fork)]
        chains = [parts, *(branch for fork in forks for branch in fork.branches)]
        self.branches = ["main", *(_first(branch) for fork in forks for branch in fork.branches)]
        self.held_back = {name for chain in chains for name in _held_back(chain)}
        self._naps = [leaf for leaf in leaves if isinstance(leaf, Nap)]
        self.workflow = Workflow(
            name,
            _chain(parts, ()),
            tasks=[_task(step, body) for step in self.steps.values()],
            timeout=timeout_s,
            retention=None if kept_s is None else {"completed": kept_s, "failed": kept_s, "cancelled": kept_s},
        )

    def worst_s(self, signals: int) -> float:
        """How long a run takes at most without faults: branches after one another, each signal a loop."""
        steps_s = sum(step.worst_s for step in self.steps.values()) * (1 + signals)
        waits_s = sum((wait.timeout_ms or 0) / 1_000 for wait in self.waits) * (1 + signals)
        return steps_s + waits_s + sum((nap.for_ms or 0) / 1_000 for nap in self._naps)

    def expected(self, value: object, received: Received) -> object:
        """The output for an input, if waits ended so.

        Raises:
            LookupError: A run cannot be over after that.
        """
        return _after(self.parts, value, received)


def output_of(step: str, value: object) -> int:
    """What a step's body returns for its argument."""
    return zlib.crc32(f"{step}({json.dumps(value, sort_keys=True)})".encode())


def _after(parts: tuple[Part, ...], value: object, received: Received) -> object:
    for part in parts:
        match part:
            case Step():
                value = output_of(part.name, value)
            case Wait():
                value = _waited(part, 1, value, received)
            case Loop():
                visit = 1
                while received[part.wait.name, visit] != TIMED_OUT:
                    value = output_of(part.body.name, received[part.wait.name, visit])
                    visit += 1
                value = _waited(part.wait, visit, value, received)
            case Fork():
                joined = {_first(branch): _after(branch, value, received) for branch in part.branches}
                value = output_of(part.after.name, joined)
            case _:
                pass
    return value


def _waited(wait: Wait, visit: int, value: object, received: Received) -> object:
    given = received[wait.name, visit]
    if given != TIMED_OUT:
        return given
    if wait.instead is None:
        raise LookupError(wait.name)
    return output_of(wait.instead.name, value)


def _first(parts: tuple[Leaf, ...]) -> str:
    """Name of the step that a branch starts at, and of the branch."""
    return _begins_at(parts[0])


def _begins_at(part: Part) -> str:
    return part.wait.name if isinstance(part, Loop) else part.name


def _held_back(parts: tuple[Part, ...]) -> Iterator[str]:
    """Where branches stop that have passed a pause: the next step that is none, or all those of a fork."""
    for before, part in itertools.pairwise(parts):
        if isinstance(before, Halt) and isinstance(part, Fork):
            yield f"{part.name} join"
            for branch in part.branches:
                yield from [_first(branch)] if not isinstance(branch[0], Halt) else []
        elif isinstance(before, Halt) and not isinstance(part, Halt):
            yield _begins_at(part)


def _leaves(part: Part) -> Iterator[Leaf]:
    if isinstance(part, Fork):
        for branch in part.branches:
            yield from branch
        yield part.after
    else:
        yield part


def _tasks_of(leaf: Leaf) -> list[Step]:
    match leaf:
        case Step():
            return [leaf]
        case Wait(instead=Step() as instead):
            return [instead]
        case Loop(wait=Wait(instead=Step() as instead)):
            return [leaf.body, instead]
        case _:
            return []


def _chain(parts: tuple[Part, ...], end: tuple[graph.Edge, ...]) -> list[graph.Step]:
    """The steps of parts that follow one another; the last one has the edges `end`."""
    steps: list[graph.Step] = []
    for part in reversed(parts):
        made = _compiled(part, end)
        steps[:0] = made
        end = (graph.Edge(made[0].name),)
    return steps


def _compiled(part: Part, end: tuple[graph.Edge, ...]) -> list[graph.Step]:
    match part:
        case Step():
            return [graph.Step(part.name, task=part.name, edges=end)]
        case Nap():
            return [graph.Step(part.name, "sleep", sleep=graph.Sleep(part.for_ms, part.until_ms), edges=end)]
        case Halt():
            return [graph.Step(part.name, "pause", pause=graph.Pause("as drawn"), edges=end)]
        case Wait():
            return _wait(part, end, end)
        case Loop():
            body = graph.Step(part.body.name, task=part.body.name, edges=(graph.Edge(part.wait.name),))
            return [*_wait(part.wait, (graph.Edge(body.name),), end), body]
        case Fork():
            join = graph.Join(tuple(_first(branch) for branch in part.branches))
            edges = [graph.Edge(name, name) for name in join.branches]
            after = graph.Step(part.after.name, task=part.after.name, edges=end)
            return [
                graph.Step(part.name, "fork", edges=(*edges, graph.Edge(f"{part.name} join"))),
                *(step for branch in part.branches for step in _chain(branch, ())),
                graph.Step(f"{part.name} join", "join", join=join, edges=(graph.Edge(after.name),)),
                after,
            ]


def _wait(wait: Wait, received: tuple[graph.Edge, ...], end: tuple[graph.Edge, ...]) -> list[graph.Step]:
    instead = None if wait.instead is None else wait.instead.name
    signal = graph.WaitSignal(wait.signal, wait.timeout_ms, instead)
    steps = [graph.Step(wait.name, "wait_signal", wait_signal=signal, edges=received)]
    if instead is not None:
        steps.append(graph.Step(instead, task=instead, edges=end))
    return steps


def _task(step: Step, body: Body) -> Task[..., Any]:
    async def called(value: Any) -> Any:  # noqa: ANN401 - whatever the step before returned
        deed = body.begin(step)
        output = object() if deed.kind == "unencodable" else output_of(step.name, value)
        try:
            await body.carry_out(step, deed)
        except asyncio.CancelledError:
            if deed.kind != "defies":
                raise
        body.end(output)
        return output

    def called_in_thread(value: Any) -> Any:  # noqa: ANN401 - as above
        deed = body.begin(step)
        output = object() if deed.kind == "unencodable" else output_of(step.name, value)
        body.carry_out_now(step, deed)
        body.end(output)
        return output

    fn: Callable[..., Any] = called if step.is_async else called_in_thread
    retry = Retry(max_retries=step.retries, base_delay=step.delay_s)
    decorate = task(step.name, retry=retry, timeout=step.timeout_s)
    return decorate(fn)
