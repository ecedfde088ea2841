"""Small workflows and bodies that several files of this directory use."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from holdfast import Edge, Flow, Join, Retry, Step, Task, Workflow, task
from tests.semantics.places import until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@task
async def keep(x: Any) -> Any:  # noqa: ANN401 - whatever it is
    return x


class Gate:
    """A body that waits until it may end, and what has become of it.

    Attributes:
        task: The body; gives what it got.
        calls: What it was called with.
        stops: How often it was cancelled.
    """

    def __init__(self, name: str = "gate") -> None:
        self.calls: list[Any] = []
        self.stops = 0
        self._is_open = asyncio.Event()

        async def hold(x: Any) -> Any:  # noqa: ANN401 - whatever it is
            self.calls.append(x)
            try:
                await self._is_open.wait()
            except asyncio.CancelledError:
                self.stops += 1
                raise
            return x

        self.task: Task[..., Any] = task(name)(hold)

    def open(self) -> None:
        self._is_open.set()

    def close(self) -> None:
        self._is_open.clear()

    async def until_called(self, times: int = 1) -> None:
        await until(lambda: len(self.calls) >= times)


class Calls:
    """A body that notes its calls, and fails so often before it gives what it got."""

    def __init__(self, name: str = "work", *, failures: int = 0, retry: Sequence[Retry] = ()) -> None:
        self.calls: list[Any] = []

        async def work(x: Any) -> Any:  # noqa: ANN401 - whatever it is
            self.calls.append(x)
            if len(self.calls) <= failures:
                raise ConnectionError(f"busy {len(self.calls)}")
            return x

        self.task: Task[..., Any] = task(name, retry=list(retry))(work)


def chain(*steps: Step) -> Iterator[Step]:
    """The same steps, each leading to the next one; a step that has edges keeps them."""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        is_last = following is None or step.edges
        yield (
            step
            if is_last or following is None
            else msgspec.structs.replace(step, edges=(Edge(following.name),))
        )


def line(*steps: Step, tasks: Sequence[Task[..., Any]] = (), **options: Any) -> Workflow:  # noqa: ANN401 - of a Workflow
    """A workflow `order` of steps one after the other, with `keep` among its tasks."""
    return Workflow("order", chain(*steps), tasks=[keep, *tasks], **options)


def parallel(
    branches: Mapping[str, Sequence[Step]],
    *tasks: Task[..., Any],
    before: Sequence[Step] = (),
    **options: Any,  # noqa: ANN401 - of a Workflow
) -> Workflow:
    """A workflow `order` with these branches side by side, and a join that gives a dict of their values."""
    edges = [Edge(steps[0].name, name) for name, steps in branches.items()]
    fork = Step("fork", "fork", edges=(*edges, Edge("join")))
    steps = [*chain(*before, fork)]
    for inner in branches.values():
        steps += chain(*inner)
    steps += chain(Step("join", "join", join=Join(tuple(branches))), Step("end", task="keep"))
    return Workflow("order", steps, tasks=[keep, *tasks], **options)


def straight(*bodies: Any, name: str = "order", **options: Any) -> Flow:  # noqa: ANN401 - functions; of a Flow
    """A flow of functions one after the other."""
    flow = Flow(name, **options)
    for body in bodies:
        flow.then(body)
    return flow
