"""Programs: workflows of tasks, functions, sleeps, waits, pauses, loops and forks, and what they must come to.

What a run of a program must come to is said here once more, over the parts that were drawn and the signals that
the run has received: it knows nothing of journals.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from holdfast.definition import step as graph
from holdfast.definition.workflow import Workflow
from holdfast.testing.simulator.functions import Await, Do, Durable, Performer, Sleep, Start
from holdfast.testing.simulator.steps import Body, Step, output_of, task_of

TIMED_OUT = "timed out"
"""Instead of a payload: no signal came in time."""
Received = Mapping[tuple[str, int], object]
"""By step and visit what a wait ended with, a payload or `TIMED_OUT`, and what a durable function gave."""


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


Leaf = Step | Nap | Wait | Halt | Loop | Durable
Part = Leaf | Fork


class Program:
    """A workflow with its bodies.

    Attributes:
        name: Of the workflow.
        parts: What it does, in order.
        timeout_s: Bound of a run, or None.
        workflow: To give to engines.
        steps: All task steps, by name.
        durables: All steps that are durable functions, by name.
        calls: All that these call as steps, by name.
        signals, halts: What is waited for, once for each wait, and all pauses.
        starts: The programs that its functions start.
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
        others: Sequence["Program"] = (),
    ) -> None:
        """Build the workflow; runs that are over are kept for `kept_s`, or for ever; it may start `others`."""
        self.name = name
        self.parts = parts
        self.timeout_s = timeout_s
        leaves = [leaf for part in parts for leaf in _leaves(part)]
        self.steps = {step.name: step for leaf in leaves for step in _tasks_of(leaf)}
        self.durables = {leaf.name: leaf for leaf in leaves if isinstance(leaf, Durable)}
        asks = [ask for durable in self.durables.values() for ask in durable.all()]
        self.calls = {ask.step.name: ask.step for ask in asks if isinstance(ask, Do)}
        named = {other.name: other for other in others}
        self.starts = [named[ask.program] for ask in asks if isinstance(ask, Start)]
        waits = [
            leaf.wait if isinstance(leaf, Loop) else leaf for leaf in leaves if isinstance(leaf, Wait | Loop)
        ]
        awaits = [ask for ask in asks if isinstance(ask, Await)]
        both: list[Wait | Await] = [*waits, *awaits]
        self.signals = [wait.signal for wait in both]
        self._waits_ms = [wait.timeout_ms or 0 for wait in both]
        self.halts = [leaf for leaf in leaves if isinstance(leaf, Halt)]
        forks = [part for part in parts if isinstance(part, Fork)]
        chains = [parts, *(branch for fork in forks for branch in fork.branches)]
        self.branches = ["main", *(_first(branch) for fork in forks for branch in fork.branches)]
        self.held_back = {name for chain in chains for name in _held_back(chain)}
        self._naps = [each for each in [*leaves, *asks] if isinstance(each, Nap | Sleep)]
        retention = None if kept_s is None else {"completed": kept_s, "failed": kept_s, "cancelled": kept_s}
        performers = {each.name: Performer(each, body) for each in self.durables.values()}
        first = parts[0]
        self.workflow: Workflow
        if len(parts) == 1 and isinstance(first, Durable) and first.name == name:
            self.workflow = performers[name].function(timeout_s=timeout_s, retention=retention)
            return
        tasks = [task_of(step, body) for step in self.steps.values()]
        tasks += [performer.task() for performer in performers.values()]
        self.workflow = Workflow(name, _chain(parts, ()), tasks=tasks, timeout=timeout_s, retention=retention)

    def worst_s(self, signals: int) -> float:
        """How long a run takes at most without faults: everything one after the other, each signal a loop.

        What functions do may be done again, in each of their attempts.
        """
        again = 1 + max((each.retries for each in self.durables.values()), default=0)
        again += max((each.anew for each in self.durables.values()), default=0)
        steps_s = sum(step.worst_s for step in self.steps.values()) * (1 + signals)
        calls_s = sum(step.worst_s for step in self.calls.values()) * 4
        delays_s = sum(each.delay_s * 2.0**each.retries for each in self.durables.values())
        waits_s = sum(self._waits_ms) / 1_000 * (1 + signals)
        naps_s = sum((nap.for_ms or 0) / 1_000 for nap in self._naps)
        children_s = sum(child.worst_s(signals) for child in self.starts)
        return (steps_s + calls_s + delays_s + waits_s + naps_s + children_s) * again

    def expected(self, value: object, received: Received) -> object:
        """The output for an input, if waits ended so.

        Raises:
            LookupError: A run cannot be over after that.
        """
        return _after(self.parts, value, received)


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
            case Durable():
                value = received[part.name, 1]
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
        case Step() | Durable():
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
