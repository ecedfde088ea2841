"""Small workflows with every way to wait, and bodies that do what their argument says.

A value is a number: its last digit says how many attempts of each step fail. No two durations have a sum in
common, so that nothing is due at one moment with something else, and a model needs no rule for it.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from holdfast import Retry, task
from holdfast.definition.step import Edge, Join, Pause, Sleep, Step, WaitSignal
from holdfast.definition.workflow import Workflow
from holdfast.runtime.context import get_task_context
from holdfast.testing.clock import BEGIN_MS, VirtualClock

FAILS = 10
UNTIL = datetime.fromtimestamp((BEGIN_MS + 86_400_777) / 1_000, tz=UTC)
DURATIONS_MS = {"slow": 4_008, "slower": 9_032}
"""How long the bodies of these tasks take; the others take no time."""


class Call(NamedTuple):
    """One call of a body."""

    run_id: str
    incarnation: int
    branch: str
    step: str
    attempt: int


@dataclass
class World:
    """What bodies see of the outside, and what became of it."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    calls: Counter[Call] = field(default_factory=Counter)


WORLD = World()


class OopsError(Exception):
    """What bodies fail with."""


async def work(name: str, value: int) -> int:
    context = get_task_context()
    assert context is not None
    WORLD.calls[Call(context.run_id, context.incarnation, context.branch, context.step, context.attempt)] += 1
    if name in DURATIONS_MS:
        await WORLD.clock.sleep(DURATIONS_MS[name] / 1_000)
    if context.attempt <= value % FAILS:
        raise OopsError(f"attempt {context.attempt} fails")
    return value


@task
async def quick(value: int) -> int:
    return await work("quick", value)


@task(retry=Retry(max_retries=2, base_delay="204ms"))
async def hasty(value: int) -> int:
    return await work("hasty", value)


@task(retry=Retry(max_retries=2, base_delay="1501ms"))
async def flaky(value: int) -> int:
    return await work("flaky", value)


@task(retry=Retry(max_retries=1, base_delay="7016ms"))
async def slow(value: int) -> int:
    return await work("slow", value)


@task
async def slower(value: int) -> int:
    return await work("slower", value)


@task
async def collect(values: dict[str, int]) -> int:
    return await work("collect", max(values.values()))


TASKS = (quick, hasty, flaky, slow, slower, collect)


def to(*steps: str) -> tuple[Edge, ...]:
    return tuple(Edge(step) for step in steps)


def does(name: str, then: str = "", *, called: str = "") -> Step:
    return Step(name, task=called or name, edges=to(then) if then else ())


def sleeps(name: str, sleep: Sleep, then: str) -> Step:
    return Step(name, "sleep", sleep=sleep, edges=to(then))


def waits(name: str, wait: WaitSignal, then: str = "") -> Step:
    return Step(name, "wait_signal", wait_signal=wait, edges=to(then) if then else ())


def fork(*branches: tuple[str, str], join: str) -> Step:
    return Step("fork", "fork", edges=(*(Edge(step, name) for name, step in branches), Edge(join, "trunk")))


FLOWS = {
    flow.name: flow
    for flow in (
        Workflow("line", [does("slow", "flaky"), does("flaky", "quick"), does("quick")], tasks=TASKS),
        Workflow(
            "approval",
            [
                does("quick", "wait"),
                waits("wait", WaitSignal.of("a", timeout="30064ms", on_timeout="instead"), "flaky"),
                does("instead", "flaky", called="hasty"),
                does("flaky"),
            ],
            tasks=TASKS,
        ),
        Workflow(
            "notes",
            [
                waits("first", WaitSignal("a"), "second"),
                waits("second", WaitSignal.of("a", timeout="20128ms"), "slow"),
                does("slow", "third"),
                waits("third", WaitSignal.of("b"), "quick"),
                does("quick"),
            ],
            tasks=TASKS,
        ),
        Workflow(
            "fork",
            [
                does("quick", "fork"),
                fork(("x", "flaky"), ("y", "slow"), join="join"),
                does("flaky", "wait_x"),
                waits("wait_x", WaitSignal("a")),
                does("slow", "wait_y"),
                waits("wait_y", WaitSignal.of("a", timeout="50256ms", on_timeout="slower")),
                does("slower"),
                Step("join", "join", join=Join(("x", "y")), edges=to("collect")),
                does("collect"),
            ],
            tasks=TASKS,
        ),
        Workflow(
            "sleepy",
            [
                sleeps("nap", Sleep.of("10s"), "hasty"),
                does("hasty", "night"),
                sleeps("night", Sleep.of("8h"), "slower"),
                does("slower", "day"),
                sleeps("day", Sleep.of(until=UNTIL), "quick"),
                does("quick"),
            ],
            tasks=TASKS,
        ),
        Workflow(
            "held",
            [
                does("quick", "look"),
                Step("look", "pause", pause=Pause("look at it"), edges=to("slow")),
                does("slow", "again"),
                Step("again", "pause", pause=Pause("once more"), edges=to("nap")),
                sleeps("nap", Sleep.of("5640ms"), "flaky"),
                does("flaky"),
            ],
            tasks=TASKS,
        ),
        Workflow(
            "bounded",
            [
                fork(("x", "slow"), ("y", "wait"), join="join"),
                does("slow", "flaky"),
                does("flaky"),
                waits("wait", WaitSignal("b"), "slower"),
                does("slower", "nap"),
                sleeps("nap", Sleep.of("12s"), "hasty"),
                does("hasty"),
                Step("join", "join", join=Join(("x", "y")), edges=to("collect")),
                does("collect"),
            ],
            tasks=TASKS,
            timeout="41s",
        ),
    )
}
