"""Steps of programs, and what calls their bodies."""

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from holdfast.definition.policies import Retry
from holdfast.definition.task import Task, task
from holdfast.testing.simulator.deeds import SLOW_S, Deed


class Step(msgspec.Struct, frozen=True):
    """A task: that of a step of a graph, or what a durable function calls as one."""

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


class Body(Protocol):
    """What happens in a simulated process when a body is called."""

    def begin(self, step: Step, value: object) -> Deed:
        """Record that an attempt begins, with which argument; gives what it does."""
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

    def enter(self, name: str) -> None:
        """Record that a durable function begins at its first line."""
        ...

    def tidies_s(self, name: str) -> float:
        """How long a durable function takes to leave, whatever the reason."""
        ...

    def fresh(self, name: str) -> int:
        """What nobody could give a second time: the value of a record."""
        ...


def output_of(step: str, value: object) -> int:
    """What a step's body returns for its argument."""
    return zlib.crc32(f"{step}({json.dumps(value, sort_keys=True)})".encode())


def task_of(step: Step, body: Body) -> Task[..., Any]:
    """A task that does what `body` says."""

    async def called(value: Any) -> Any:  # noqa: ANN401 - whatever the step before returned
        deed = body.begin(step, value)
        output = object() if deed.kind == "unencodable" else output_of(step.name, value)
        try:
            await body.carry_out(step, deed)
        except asyncio.CancelledError:
            if deed.kind != "defies":
                raise
        body.end(output)
        return output

    def called_in_thread(value: Any) -> Any:  # noqa: ANN401 - as above
        deed = body.begin(step, value)
        output = object() if deed.kind == "unencodable" else output_of(step.name, value)
        body.carry_out_now(step, deed)
        body.end(output)
        return output

    fn: Callable[..., Any] = called if step.is_async else called_in_thread
    retry = Retry(max_retries=step.retries, base_delay=step.delay_s)
    decorate = task(step.name, retry=retry, timeout=step.timeout_s)
    return decorate(fn)
