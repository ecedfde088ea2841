"""Durable functions of programs: what they ask for, as data, and the function that asks for it."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from holdfast.definition.function import Function, workflow
from holdfast.definition.policies import Retry
from holdfast.definition.task import Task, task
from holdfast.errors import OperationCancelledError, OperationError
from holdfast.runtime.durable import Context
from holdfast.testing.simulator.ports import BodyError
from holdfast.testing.simulator.steps import Body, Step, output_of, task_of

ANEW = 100_000_000
"""What a function that begins anew adds to its input."""
DRAWN_NAME = "drawn"
"""Of the variable that functions set and get."""


Noted = Literal["now", "random", "uuid", "record", "patch"]


class Do(msgspec.Struct, frozen=True):
    """A step of the function, called with the value so far; `catches` its failure, or lets it pass."""

    step: Step
    catches: bool = False


class Sleep(msgspec.Struct, frozen=True):
    """A sleep: for so long, or until a moment."""

    for_ms: int | None
    until_ms: int | None


class Await(msgspec.Struct, frozen=True):
    """A wait for a signal: its payload is the value; see `Do` for one that does not come in time."""

    signal: str
    timeout_ms: int | None
    catches: bool = False


class Start(msgspec.Struct, frozen=True):
    """A child run of another program, with the value so far as its input; see `Do` for one that fails."""

    program: str
    detaches: bool = False
    catches: bool = False


class Note(msgspec.Struct, frozen=True):
    """Something that is recorded, and is mixed into the value."""

    kind: Noted
    name: str


class Keep(msgspec.Struct, frozen=True):
    """A variable is set to the value, or deleted."""

    deletes: bool = False


class Recall(msgspec.Struct, frozen=True):
    """The variable is mixed into the value."""


class Report(msgspec.Struct, frozen=True):
    """Something is reported."""

    kind: Literal["progress", "heartbeat"]


class Stumble(msgspec.Struct, frozen=True):
    """The function raises an error of its own in so many attempts."""

    name: str
    attempts: int


class Beside(msgspec.Struct, frozen=True):
    """Parts side by side; the values of all, or that of the first, are the value."""

    kind: Literal["gather", "race"]
    parts: tuple[tuple["Ask", ...], ...]
    keeps_errors: bool = False
    catches: bool = False


class Each(msgspec.Struct, frozen=True):
    """The same for so many items: `ctx.map`."""

    asks: tuple["Ask", ...]
    items: int
    concurrency: int | None = None
    min_completed: int | None = None
    failures_max: int | None = None
    catches: bool = False


Ask = Do | Sleep | Await | Start | Note | Keep | Recall | Report | Stumble | Beside | Each


class Durable(msgspec.Struct, frozen=True):
    """A step of a graph, or a whole program, that is a durable function.

    Attributes:
        retries, delay_s: Of the function.
        anew: How often it begins anew, if it is a whole program.
    """

    name: str
    asks: tuple[Ask, ...]
    retries: int
    delay_s: float
    anew: int = 0

    def all(self) -> Iterator[Ask]:
        """Everything that it may ask for, also in parts."""
        return _all(self.asks)


def _all(asks: tuple[Ask, ...]) -> Iterator[Ask]:
    for ask in asks:
        yield ask
        if isinstance(ask, Beside):
            for part in ask.parts:
                yield from _all(part)
        elif isinstance(ask, Each):
            yield from _all(ask.asks)


def mixed(name: str, value: object, more: object = None) -> int:
    """What a value becomes by something else."""
    return output_of(name, [value, more])


def caught(kind: str) -> str:
    """The value after a failure that was caught, or the place of a failure in a list."""
    return f"caught {kind}"


CANCELLED = "cancelled"
"""The place of a part that was cancelled in a list."""


def begins_anew(durable: Durable, value: object) -> int | None:
    """The input with which a run that had this one begins anew at its end, or None."""
    is_first = isinstance(value, int) and value < durable.anew * ANEW
    return value + ANEW if is_first and isinstance(value, int) else None


class Performer:
    """Asks a context for what was drawn."""

    def __init__(self, durable: Durable, body: Body) -> None:
        """Make the tasks of its steps."""
        self._durable = durable
        self._body = body
        steps = [ask.step for ask in durable.all() if isinstance(ask, Do)]
        self._tasks: dict[str, Task[..., Any]] = {step.name: task_of(step, body) for step in steps}

    def function(self, *, timeout_s: float | None, retention: dict[str, float] | None) -> Function[..., Any]:
        """As a whole workflow."""
        retry = Retry(max_retries=self._durable.retries, base_delay=self._durable.delay_s)
        decorate = workflow(self._durable.name, retry=retry, timeout=timeout_s, retention=retention)
        return decorate(self._called())

    def task(self) -> Task[..., Any]:
        """As the task of a step."""
        retry = Retry(max_retries=self._durable.retries, base_delay=self._durable.delay_s)
        decorate = task(self._durable.name, retry=retry)
        return decorate(self._called())

    def _called(self) -> Callable[..., Any]:
        async def called(ctx: Context, value: Any) -> Any:  # noqa: ANN401 - whatever the step before returned
            self._body.enter(self._durable.name)
            try:
                given = await self._follow(ctx, self._durable.asks, value)
                anew = begins_anew(self._durable, value)
                if anew is not None:
                    await ctx.continue_as_new(anew)
                return given
            finally:
                tidies_s = self._body.tidies_s(self._durable.name)
                if tidies_s:
                    await asyncio.sleep(tidies_s)

        return called

    async def _follow(self, ctx: Context, asks: tuple[Ask, ...], value: Any) -> Any:  # noqa: ANN401 - as above
        for ask in asks:
            try:
                value = await self._ask(ctx, ask, value)
            except OperationError as error:
                if not getattr(ask, "catches", False):
                    raise
                value = caught(error.kind)
        return value

    async def _ask(self, ctx: Context, ask: Ask, value: Any) -> Any:  # noqa: ANN401 - as above
        match ask:
            case Do():
                given = await ctx.step(self._tasks[ask.step.name], value)
            case Start():
                given = await ctx.child(ask.program, value, detach=ask.detaches)
            case Beside():
                given = await self._beside(ctx, ask, value)
            case Each():
                given = await self._each(ctx, ask, value)
            case Sleep() | Await():
                given = await _wait(ctx, ask, value)
            case Note():
                given = mixed(ask.name, value, await self._noted(ctx, ask))
            case _:
                given = _now(ctx, ask, value)
        return given

    async def _noted(self, ctx: Context, note: Note) -> object:
        match note.kind:
            case "now":
                return ctx.now().isoformat()
            case "random":
                return ctx.random()
            case "uuid":
                return str(ctx.uuid())
            case "patch":
                return ctx.patched(note.name)
            case _:
                return await ctx.record(note.name, lambda: self._body.fresh(note.name), type=int)

    async def _beside(self, ctx: Context, beside: Beside, value: Any) -> Any:  # noqa: ANN401 - as above
        parts = [self._follow(ctx, part, mixed(str(n), value)) for n, part in enumerate(beside.parts)]
        if beside.kind == "race":
            return await ctx.race(*parts)
        return [_shown(each) for each in await ctx.gather(*parts, return_exceptions=beside.keeps_errors)]

    async def _each(self, ctx: Context, each: Each, value: Any) -> Any:  # noqa: ANN401 - as above
        async def part(ctx: Context, item: Any) -> Any:  # noqa: ANN401 - as above
            return await self._follow(ctx, each.asks, item)

        first = each.asks[0]
        is_step = len(each.asks) == 1 and isinstance(first, Do) and not first.catches
        fn: Callable[..., Any] = self._tasks[first.step.name] if is_step and isinstance(first, Do) else part
        given = await ctx.map(
            fn,
            [mixed(str(n), value) for n in range(each.items)],
            concurrency=each.concurrency,
            min_completed=each.min_completed,
            failures_max=each.failures_max,
        )
        return [_shown(one) for one in given]


async def _wait(ctx: Context, ask: Sleep | Await, value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(ask, Await):
        timeout = None if ask.timeout_ms is None else timedelta(milliseconds=ask.timeout_ms)
        return await ctx.wait_signal(ask.signal, timeout=timeout)
    if ask.for_ms is not None:
        await ctx.sleep(timedelta(milliseconds=ask.for_ms))
    else:
        await ctx.sleep(until=datetime.fromtimestamp((ask.until_ms or 0) / 1_000, tz=UTC))
    return value


def _now(ctx: Context, ask: Keep | Recall | Report | Stumble, value: Any) -> Any:  # noqa: ANN401 - as above
    match ask:
        case Keep(deletes=True):
            ctx.delete(DRAWN_NAME)
        case Keep():
            ctx.set(DRAWN_NAME, value)
        case Recall():
            return mixed("get", value, ctx.get(DRAWN_NAME))
        case Report(kind="progress"):
            ctx.report_progress(value)
        case Report():
            ctx.heartbeat(value)
        case Stumble():
            if ctx.task.attempt <= ask.attempts:
                raise BodyError(ask.name)
    return value


def _shown(given: object) -> object:
    """A value of a list; errors are none."""
    match given:
        case OperationCancelledError():
            return CANCELLED
        case OperationError():
            return caught(given.kind)
        case Exception():
            raise given
        case _:
            return given
