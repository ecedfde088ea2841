"""Twelve durable functions that between them use all that a context offers, and the world they act upon.

What they do is a pure function of their input, of signals and of the numbers of attempts, so that a run that
is crashed must end as one that is not.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from holdfast import Context, Flow, Function, Retry, get_task_context, task, workflow
from holdfast.errors import ChildError, OperationCancelledError, SignalTimeoutError, StepError
from holdfast.testing.crashes import Signals


class World:
    """What steps do to the outside: once for each place, however often it is asked for.

    Two worlds are equal where the same was done in them; how often it was asked for is only told.

    Attributes:
        done: What was done, by place: workflow, incarnation, operation, argument.
        asked: How often.
        keys: Names by which somebody else knows a request.
    """

    def __init__(self) -> None:
        self.done: dict[str, object] = {}
        self.asked: Counter[str] = Counter()
        self.keys: set[str] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, World) and (self.done, len(self.keys)) == (other.done, len(other.keys))

    def __hash__(self) -> int:
        return hash(frozenset(self.done))

    def __repr__(self) -> str:
        return f"{self.done} under {len(self.keys)} keys"


WORLD = World()


def reset() -> None:
    WORLD.__init__()  # type: ignore[misc]  # the same world, as it was in the beginning


def act(argument: object) -> int:
    """Do something, once for each place; gives the attempt."""
    context = get_task_context()
    assert context is not None
    place = f"{context.workflow}.{context.incarnation} {context.operation or context.step} {argument}"
    WORLD.asked[place] += 1
    WORLD.done.setdefault(place, argument)
    return context.attempt


# What is called as a step.


@task
async def add(number: int) -> int:
    act(number)
    return number + 1


def add_in_thread(number: int) -> int:
    act(number)
    return number + 1


@task(retry=Retry(max_retries=2, base_delay="1h", error_equals=["ConnectionError"]))
async def never_there(number: int) -> int:
    raise ConnectionError(f"attempt {act(number)} for {number}")


@task(retry=Retry(max_retries=5, base_delay="2m"))
async def there_at_last(number: int) -> int:
    attempt = act(number)
    if attempt < 3:
        raise ConnectionError("busy")
    return number * attempt


async def refuse(number: int) -> int:
    act(number)
    raise ValueError(f"{number} is refused")


async def pay(key: str, amount: int) -> int:
    act(amount)
    WORLD.keys.add(key)
    return amount


async def odd(number: int) -> int:
    act(number)
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


# 1 to 3: sagas, loops, signals.


@workflow
async def saga(ctx: Context, amount: int) -> list[str]:
    """Undo what was done, the last thing first."""
    undo: list[str] = []
    told: list[str] = []
    try:
        await ctx.step(add, amount, name="reserve")
        undo.append("release")
        await ctx.step(add_in_thread, amount + 1, name="charge")
        undo.append("refund")
        await ctx.step(refuse, amount + 2, name="ship")
    except StepError as error:
        told.append(f"{error.operation} {error.kind}")
        for name in reversed(undo):
            await ctx.step(add, amount, name=name)
            told.append(name)
    return told


@workflow
async def reminders(ctx: Context, days: int) -> list[int]:
    begun = ctx.now()
    seconds: list[int] = []
    for day in range(days):
        ctx.report_progress({"day": day})
        await ctx.step(add, day)
        await ctx.sleep("1d")
        seconds.append(round((ctx.now() - begun) / timedelta(seconds=1)))
    await ctx.sleep(until=begun + timedelta(days=9))
    await ctx.sleep("250ms", name="short")
    return seconds


@workflow
async def approval(ctx: Context) -> list[Any]:
    """Two signals of one name, one that comes too late, and one that somebody else waits for beside it."""
    given = [await ctx.wait_signal("go", timeout="2d", type=int) for _ in range(2)]
    try:
        given.append(await ctx.wait_signal("never", timeout="3d"))
    except SignalTimeoutError as error:
        given.append(error.operation)
        await ctx.step(add, 10)
    given += await ctx.gather(ctx.wait_signal("go", type=int), ctx.wait_signal("stop", type=str))
    return given


# 4 to 7: parallel work.


@workflow
async def fan(ctx: Context, count: int) -> list[Any]:
    """Steps side by side, some of which fail; then all are cancelled because one does."""
    parts = [ctx.step(add if number % 2 else add_in_thread, number) for number in range(count)]
    mixed = await ctx.gather(*parts, ctx.step(refuse, 7), return_exceptions=True)
    told = [each.kind if isinstance(each, StepError) else each for each in mixed]
    try:
        await ctx.gather(_refused_later(ctx), _late(ctx))
    except StepError as error:
        told.append(error.operation)
    return [*told, await ctx.step(add, count)]


async def _refused_later(ctx: Context) -> int:
    await ctx.sleep("1h")
    return await ctx.step(refuse, 8)


async def _late(ctx: Context) -> int:
    await ctx.step(add, 100)
    await ctx.sleep("5h")
    return await ctx.step(add, 200)


@workflow
async def nested(ctx: Context, hours: int) -> list[Any]:
    """Who comes first in a scope is not who came first in time."""
    both = await ctx.gather(_slow(ctx, hours), _quick(ctx, hours))
    return [both, await ctx.step(add, sum(map(sum, both)))]


async def _slow(ctx: Context, hours: int) -> list[int]:
    await ctx.sleep(timedelta(hours=hours))
    return [await ctx.step(add, 1), await ctx.step(add, 2)]


async def _quick(ctx: Context, hours: int) -> list[int]:
    first = await ctx.step(add, 3)
    inner = await ctx.gather(_slow(ctx, 2 * hours), ctx.step(add, first), _slow(ctx, 3 * hours))
    return [first, *inner[0], inner[1], *inner[2]]


@workflow
async def contest(ctx: Context, hours: int) -> list[str]:
    """The second wins, and much later the first would have been there, too."""
    won = [await ctx.race(_after(ctx, 2 * hours, "slow"), _after(ctx, hours, "quick"))]
    await ctx.step(add, hours, name=won[0])
    await ctx.sleep("2d")
    won.append(await ctx.race(ctx.wait_signal("go", type=str), _after(ctx, hours, "nobody")))
    await ctx.sleep("2d")
    won.append(await ctx.race(ctx.wait_signal("go", type=str), _worked_after(ctx, hours)))
    return won


async def _after(ctx: Context, hours: int, name: str) -> str:
    await ctx.sleep(timedelta(hours=hours))
    return name


async def _worked_after(ctx: Context, hours: int) -> str:
    for _ in range(2):
        await ctx.step(add, hours)
        await ctx.sleep(timedelta(hours=hours))
    await ctx.sleep("9d")
    return "worked"


@workflow
async def batch(ctx: Context, items: list[int]) -> list[Any]:
    one = await ctx.map(_worked, items, concurrency=2, min_completed=2)
    two = await ctx.map(_awaited, items, min_completed=2)
    return [_told(one), _told(two), await ctx.map(add, items, concurrency=3)]


async def _worked(ctx: Context, item: int) -> int:
    number = await ctx.step(add, item)
    await ctx.sleep(timedelta(hours=item))
    return await ctx.step(odd, number)


async def _awaited(ctx: Context, item: int) -> int:
    await ctx.sleep(timedelta(hours=10 - item))
    return await ctx.step(add, item)


def _told(results: Iterable[object]) -> list[object]:
    plain = ["cancelled" if isinstance(each, OperationCancelledError) else each for each in results]
    return [each.kind if isinstance(each, StepError) else each for each in plain]


# 8 and 9: values and variables.


@workflow(retry=Retry(max_retries=1, base_delay="1h"))
async def draws(ctx: Context) -> list[Any]:
    """What is drawn is the same after a crash; what `record` could not fetch is fetched by the next attempt."""
    begun, chance, key = ctx.now(), ctx.random(), ctx.uuid()
    paid = await ctx.step(pay, str(key), 5)
    token = await ctx.record("token", lambda: _fetched(ctx))
    try:
        await ctx.record("nothing", lambda: {}["nothing"])
    except KeyError:
        paid += 100
    await ctx.sleep("1d")
    other = ctx.uuid()
    paid += await ctx.step(pay, str(other), 6)
    return [chance, paid, token, key != other, round((ctx.now() - begun) / timedelta(hours=1)), str(key)]


def _fetched(ctx: Context) -> str:
    act("token")
    if ctx.task.attempt == 1:
        raise ConnectionError("no token yet")
    return f"token {ctx.task.attempt}"


@workflow
async def counting(ctx: Context, rounds: int) -> list[Any]:
    """Each line reads what was written before it, and nothing that was written after it."""
    seen: list[Any] = []
    for number in range(rounds):
        seen.append(ctx.get("count", 0, type=int))
        ctx.set("count", number + 1)
        await ctx.step(add, number)
        await ctx.sleep("1h")
    seen += await ctx.gather(_counted(ctx, "2h", 10), _counted(ctx, "1h", 20))
    ctx.set("passing", 1)
    await ctx.sleep("1h")
    seen += [ctx.get("count", type=int), ctx.get("passing", type=int)]
    ctx.delete("passing")
    await ctx.sleep("1h")
    return [*seen, ctx.get("passing", "gone")]


async def _counted(ctx: Context, duration: str, number: int) -> int:
    before: int = ctx.get("count", type=int)
    ctx.set("count", number)
    await ctx.sleep(duration)
    await ctx.step(add, number)
    return before + ctx.get("count", type=int)


# 10: children.


@workflow
async def small(ctx: Context, number: int) -> int:
    first = await ctx.step(add, number)
    await ctx.sleep("1h")
    if number < 0:
        await ctx.step(refuse, number)
    return await ctx.step(add, first)


async def rested(ctx: Context, number: int) -> int:
    """A step of a graph that has a context, too."""
    await ctx.sleep("10m")
    return await ctx.step(add, number, name="more")


HOURLY = Flow("hourly").then(add).delay("rest", "1h").then(rested)


@workflow
async def family(ctx: Context, number: int) -> list[Any]:
    told: list[Any] = [await ctx.child(small, number)]
    told += await ctx.gather(ctx.child(small, 10), ctx.child(small, 20), ctx.child("hourly", 30))
    try:
        await ctx.child(small, -5)
    except ChildError as error:
        told.append(error.kind)
    told.append(await ctx.race(ctx.child(HOURLY, 40, name="beaten"), _after(ctx, 0, "at once")))
    left = await ctx.child(small, 50, name="left", detach=True)
    return [*told, left.startswith(f"{ctx.run_id}/left")]


# 11 and 12: retries, and runs that begin anew.


@workflow(retry=Retry(max_retries=1, base_delay="1d", error_equals=["ValueError"]))
async def stubborn(ctx: Context, number: int) -> list[Any]:
    told: list[Any] = [await ctx.step(there_at_last, number)]
    try:
        await ctx.step(never_there, number)
    except StepError as error:
        told.append(str(error.failure.message))
    both = await ctx.gather(ctx.step(add, number), ctx.step(there_at_last, number + 1))
    told.append(await ctx.step(second, ctx.task.attempt, retries=1))
    return [*told, *both]


async def second(attempt: int) -> int:
    """Is for the second attempt of the function only."""
    if act(attempt) and attempt == 1:
        raise ValueError("not yet")
    return attempt


@workflow
async def rounds(ctx: Context, left: int) -> list[Any]:
    """One signal for each incarnation, however early they come."""
    got = await ctx.wait_signal("go", timeout="9d", type=int)
    number = await ctx.step(add, got) if ctx.patched("add") else got
    await ctx.sleep("1h")
    if left:
        await ctx.continue_as_new(left - 1)
    return [left, number, ctx.patched("add")]


@dataclass(frozen=True)
class Example:
    """A function with what it is given, and how it ends."""

    function: Function[..., Any]
    input: object
    outcome: object
    signals: Signals = ()
    others: Sequence[Any] = ()


GO: Signals = [("go", 1), ("go", 2, "1d"), ("go", 3, "2d"), ("stop", "s", "6d")]
UUID_TEXT = "a UUID"
EXAMPLES: dict[str, Example] = {
    each.function.name: each
    for each in [
        Example(saga, 5, ["ship#1 ValueError", "refund", "release"]),
        Example(reminders, 3, [86_400, 172_800, 259_200]),
        Example(approval, None, [1, 2, "never#1", 3, "s"], GO),
        Example(fan, 3, [1, 2, 3, "ValueError", "gather#2/0/refuse#1", 4]),
        Example(nested, 1, [[[2, 3], [4, 2, 3, 5, 2, 3]], 25]),
        Example(contest, 3, ["quick", "nobody", "late"], [("go", "late", "5d")]),
        Example(
            batch,
            [1, 2, 3, 4],
            [["ValueError", 3, "ValueError", 5], ["cancelled", "cancelled", 4, 5], [2, 3, 4, 5]],
        ),
        Example(draws, None, [0.5, 111, "token 2", True, 25, UUID_TEXT]),
        Example(counting, 3, [0, 1, 2, 13, 23, 20, 1, "gone"]),
        Example(family, 1, [3, 12, 22, 32, "ValueError", "at once", True], others=[small, HOURLY]),
        Example(stubborn, 4, [12, "attempt 3 for 4", 2, 5, 15]),
        Example(rounds, 2, [0, 4, True], GO),
    ]
}
