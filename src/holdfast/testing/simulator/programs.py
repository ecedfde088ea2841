"""Random programs: workflows whose bodies do what a seed says, and what they must come to.

A body's deeds depend on seed, run, step and attempt alone, so that a repeated attempt does the same again; only
what takes a process down does so a few times and then lets it live (but poison never does).
"""

import asyncio
import json
import random  # noqa: TID251 - the seeded generator of a simulation
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from holdfast.definition.flow import Flow
from holdfast.definition.policies import Retry
from holdfast.definition.task import Task, task
from holdfast.definition.workflow import Workflow
from holdfast.testing.simulator.ports import BodyError

SLOW_S = 8.0
"""What a body takes at most, unless it exceeds its time-out or hangs."""


DEEDS = {
    "returns": 55,
    "slow": 20,
    "raises": 12,
    "unencodable": 1,
    "kills": 3,
    "blocks": 3,
    "overruns": 3,
    "hangs": 2,
    "defies": 1,
}
"""How often bodies do what."""
BLOCKS_S = (1.0, 12.0, 19.0, 50.0)
"""How long a body blocks its event loop: less and more than a heartbeat, the self-stop and the lease."""


class Deed(msgspec.Struct, frozen=True):
    """What a body does.

    Attributes:
        kind: `returns`, `raises`, `overruns` (its time-out), `hangs` (until cancelled), `defies` (being
            cancelled, and returns), `unencodable`, `kills` or `blocks`.
        seconds: How long it takes, or blocks.
    """

    kind: str
    seconds: float = 0.0


class Step(msgspec.Struct, frozen=True):
    """A step of a program."""

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


class Fork(msgspec.Struct, frozen=True):
    """Parallel branches, and the step after their join."""

    branches: tuple[tuple[Step, ...], ...]
    after: Step


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
        parts: Its steps and forks, in order.
        workflow: To give to engines.
        steps: All steps, by name.
    """

    def __init__(self, name: str, parts: tuple[Step | Fork, ...], body: Body) -> None:
        """Build the workflow."""
        self.name = name
        self.parts = parts
        self.steps = {step.name: step for part in parts for step in _steps_of(part)}
        tasks = {step.name: _task(step, body) for step in self.steps.values()}
        flow = Flow(name)
        for part in parts:
            if isinstance(part, Step):
                flow = flow.then(tasks[part.name])
                continue
            fork = flow.fork()
            for branch in part.branches:
                fork = fork.branch(*[tasks[step.name] for step in branch])
            flow = fork.join(tasks[part.after.name])
        self.workflow: Workflow = flow.build(durable=True)

    @property
    def worst_s(self) -> float:
        """How long a run takes at most when nothing goes wrong: branches after one another."""
        return sum(step.worst_s for step in self.steps.values())

    def expected(self, value: object) -> object:
        """The output for an input."""
        for part in self.parts:
            if isinstance(part, Step):
                value = output_of(part.name, value)
            else:
                joined: dict[str, object] = {}
                for branch in part.branches:
                    out = value
                    for step in branch:
                        out = output_of(step.name, out)
                    joined[branch[0].name] = out
                value = output_of(part.after.name, joined)
        return value


def output_of(step: str, value: object) -> int:
    """What a step's body returns for its argument."""
    return zlib.crc32(f"{step}({json.dumps(value, sort_keys=True)})".encode())


def draw_program(name: str, chance: random.Random, body: Body) -> Program:
    """A program of one to eight steps."""
    parts: list[Step | Fork] = []
    count = 0

    def step() -> Step:
        nonlocal count
        count += 1
        return Step(
            f"{name}_{count}",
            is_async=chance.random() < 0.7,  # noqa: PLR2004 - most bodies are
            timeout_s=chance.choice([None, None, 0.5, 2.0, 20.0]),
            retries=chance.choice([0, 1, 2, 3]),
            delay_s=chance.choice([0.05, 0.5, 2.0, 6.0]),
        )

    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.35 and count < 4:  # noqa: PLR2004 - small programs
            branches = [tuple(step() for _ in range(chance.randint(1, 2))) for _ in range(chance.randint(2, 3))]
            parts.append(Fork(tuple(branches), step()))
        else:
            parts.append(step())
    return Program(name, tuple(parts), body)


def draw_deed(step: Step, chance: random.Random) -> Deed:
    """What an attempt of a step does; `kills` and `blocks` only where the simulation lets it."""
    kinds, weights = zip(*DEEDS.items(), strict=True)
    (kind,) = chance.choices(kinds, weights)
    if step.timeout_s is None and kind in {"overruns", "hangs", "defies"}:
        kind = "returns"
    if not step.is_async and kind in {"hangs", "defies"}:
        kind = "overruns"
    match kind:
        case "slow":
            return Deed("returns", chance.random() * min(SLOW_S, (step.timeout_s or SLOW_S) * 0.9))
        case "blocks":
            return Deed(kind, chance.choice(BLOCKS_S))
        case "overruns":
            return Deed(kind, (step.timeout_s or 0.0) + 0.1 + chance.random() * 5)
        case _:
            return Deed(kind, chance.random() * 0.1)


def failure_types(step: Step, deed: Deed) -> set[str]:
    """What may be recorded as the failure of an attempt."""
    types: set[str] = set() if step.timeout_s is None else {"timeout"}
    if deed.kind == "raises":
        types.add(BodyError.__name__)
    if deed.kind == "unencodable":
        types.add("CodecError")
    return types


def _steps_of(part: Step | Fork) -> list[Step]:
    if isinstance(part, Step):
        return [part]
    return [*(step for branch in part.branches for step in branch), part.after]


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
