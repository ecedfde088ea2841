"""Durable functions: what an operation costs when it is made and when it is replayed, children, wide gathers.

Everything is measured beside its bare counterpart in the same run: the event loop, raw transactions, the
steps of flows. Where `dbos` can be imported, it does the same beside it (`bench_dbos.py`). Exit status 1 when
a budget is missed.

    python bench/bench_functions.py [--only STORE] [--dir DIRECTORY] [--rounds N]
"""

import argparse
import asyncio
import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Unpack

from bench_dbos import measure_dbos
from bench_steps import Report, add, bare_loop, databases, many_runs, raw_sqlite

from holdfast import AsyncEngine, AsyncHandle, Context, workflow
from holdfast.runtime.calls import Options
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at

Kind = Literal["memory", "sqlite"]
RUNS = 1_000
OPERATIONS = 10
"""Of each of them."""
LONG = 10_000
"""Operations of one long run."""
REPLAY_MS = 100
"""From the claim of such a run to the end of its replay."""
PARENTS, EACH = 1_000, 3
WIDE = 1_000
"""Children of one parent."""
GATHERS, WIDTH = 100, 100
REPLAYS = 5


class Gate:
    """Holds runs back at their first operation until all are there."""

    def __init__(self, runs: int) -> None:
        """Args: how many."""
        self._missing = runs
        self._opened = asyncio.Event()
        self.all_wait = asyncio.Event()

    async def __call__(self, x: int) -> int:
        """Wait for the rest."""
        self._missing -= 1
        if self._missing == 0:
            self.all_wait.set()
        await self._opened.wait()
        return x + 1

    def open(self) -> float:
        """Let them go; the time."""
        self._opened.set()
        return time.perf_counter()


@workflow
async def leaf(_ctx: Context, x: int) -> int:
    """A child: nothing but the engine is measured."""
    return x + 1


@workflow
async def family(ctx: Context, x: int) -> int:
    """A parent of three."""
    return sum(await ctx.gather(*(ctx.child(leaf, x) for _ in range(EACH))))


@workflow
async def clan(ctx: Context, count: int) -> int:
    """A parent of a thousand."""
    return sum(await ctx.map(leaf_of, range(count)))


async def leaf_of(ctx: Context, x: int) -> int:
    """One of the thousand."""
    return int(await ctx.child(leaf, x))


@workflow
async def line(ctx: Context, count: int) -> int:
    """Operations one after the other."""
    x = 0
    for _ in range(count):
        x = await ctx.step(add, x)
    return x


@workflow
async def broad(ctx: Context, width: int) -> int:
    """Operations side by side, again and again."""
    done = 0
    for _ in range(GATHERS):
        done += len(await ctx.gather(*(ctx.step(add, n) for n in range(width))))
    return done


def check(given: object, wanted: object) -> None:
    """A benchmark of what gives wrong results measures nothing."""
    if given != wanted:
        raise SystemExit(f"a run gave {given!r} instead of {wanted!r}")


async def live(url: str) -> float:
    """Seconds for the operations of many functions that run side by side."""
    gate = Gate(RUNS)

    @workflow
    async def ten(ctx: Context, x: int) -> int:
        x = await ctx.step(gate, x)
        for _ in range(1, OPERATIONS):
            x = await ctx.step(add, x)
        return x

    async with AsyncEngine(url, workflows=[ten], concurrency=RUNS) as engine:
        gc.collect()
        async with asyncio.TaskGroup() as starting:
            handles = [starting.create_task(engine.start(ten, n)) for n in range(RUNS)]
        await gate.all_wait.wait()
        begun = gate.open()
        for n, handle in enumerate(handles):
            check(await handle.result().result(), n + OPERATIONS)
        return time.perf_counter() - begun


async def one(url: str, fn: Any, given: int, wanted: int) -> float:  # noqa: ANN401 - any function
    """Seconds for one run, from its start to its result."""
    async with AsyncEngine(url, workflows=[fn, leaf], concurrency=2 * RUNS) as engine:
        begun = time.perf_counter()
        check(await (await engine.start(fn, given)).result(), wanted)
        return time.perf_counter() - begun


async def families(url: str) -> float:
    """Seconds for many parents with three children each, from the first start to the last result."""
    async with AsyncEngine(url, workflows=[family, leaf], concurrency=(EACH + 1) * PARENTS) as engine:
        gc.collect()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as starting:
            handles = [starting.create_task(engine.start(family, n)) for n in range(PARENTS)]
        for n, handle in enumerate(handles):
            check(await handle.result().result(), EACH * (n + 1))
        return time.perf_counter() - begun


async def parked(handle: AsyncHandle, lives: list[float], count: int) -> None:
    """Return when a run is put away after so many lives."""
    while True:
        # Not in the way of what is measured: a look reads the whole journal.
        status = await handle.status() if len(lives) >= count else None
        if status is not None and status.status == "suspended" and status.worker is None:
            return
        await asyncio.sleep(0.002)


async def replays(url: str, count: int, **options: Unpack[Options]) -> list[tuple[float, float]]:
    """Milliseconds from the claim of a run to the first line of its body, and from there to where it was."""
    claimed_s: list[float] = []
    begun_s: list[float] = []
    ended_s: list[float] = []

    @workflow
    async def long(ctx: Context, count: int) -> int:
        begun_s.append(time.perf_counter())
        x = 0
        for _ in range(count):
            x = await ctx.step(add, x, **options)
        ended_s.append(time.perf_counter())
        while await ctx.wait_signal("again"):
            pass
        return x

    store = store_at(url, worker="auto", clock=SystemClock())
    claim = store.claim

    async def noted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the store has it
        at = time.perf_counter()
        given = await claim(*args, **kwargs)
        claimed_s.extend(at for _ in given.runs)
        return given

    setattr(store, "claim", noted)  # noqa: B010 - only who asks the store for runs knows when that was
    async with AsyncEngine(store=store, workflows=[long]) as engine:
        handle = await engine.start(long, count)
        for life in range(1, REPLAYS + 1):
            await parked(handle, ended_s, life)
            gc.collect()
            await handle.signal("again", life < REPLAYS)
        check(await handle.result(), count)
    # Who starts a run in the process that drives holds it at once: its first life was not claimed.
    lives = zip(claimed_s, begun_s[1:], ended_s[1:], strict=True)
    return [((body - claim) * 1e3, (end - body) * 1e3) for claim, body, end in lives]


class Place(NamedTuple):
    """A fresh store, and the seconds of its bare counterpart: a turn of the event loop, a raw transaction."""

    url: str
    bare_s: float

    def beside(self, each_s: float) -> str:
        """How something that takes so many seconds compares to that."""
        if self.url == "memory://":
            return f"{each_s / self.bare_s:6.1f} x the bare event loop's {self.bare_s * 1e6:.1f} µs"
        return f"{self.bare_s / each_s:6.2f} x raw transactions/s"


@contextlib.contextmanager
def place(kind: Kind, directory: str | None) -> Iterator[Place]:
    """A store of that kind, for one measurement."""
    if kind == "memory":
        yield Place("memory://", asyncio.run(bare_loop()) / 1e6)
        return
    with databases(directory) as folder:
        yield Place(f"sqlite:///{folder / 'runs.db'}", 1 / raw_sqlite(folder / "raw.db", 500))


def measure_live(report: Report, kind: Kind, directory: str | None, rounds: int) -> None:
    """Operations that are made, beside the steps of flows."""
    for _ in range(rounds):
        with place(kind, directory) as here:
            each_s = asyncio.run(live(here.url)) / (RUNS * OPERATIONS)
        with place(kind, directory) as there:
            flows_s = asyncio.run(many_runs(there.url))[1] / (RUNS * OPERATIONS)
        report.line(
            f"  {RUNS:,} runs x {OPERATIONS} operations: {each_s * 1e6:6.1f} µs per operation,"
            f" {here.beside(each_s)}, {each_s / flows_s:4.2f} x the time of a flow's step"
        )
    for name, fn, given, count in (
        ("one after the other", line, LONG, LONG),
        (f"gathers of {WIDTH}", broad, WIDTH, GATHERS * WIDTH),
    ):
        for _ in range(rounds):
            with place(kind, directory) as here:
                each_s = asyncio.run(one(here.url, fn, given, count)) / count
            report.line(
                f"  one run, {count:,} operations, {name}: {each_s * 1e6:6.1f} µs per operation,"
                f" {here.beside(each_s)}"
            )


def measure_replay(report: Report, kind: Kind, directory: str | None, rounds: int) -> None:
    """Operations that are recorded already."""
    for told, options in (("", Options()), (" with retries=2", Options(retries=2))):
        found: list[float] = []
        for _ in range(rounds):
            with place(kind, directory) as here:
                lives = asyncio.run(replays(here.url, LONG, **options))
            load, body = (statistics.median(each) for each in zip(*lives, strict=True))
            report.line(
                f"  replay of {LONG:,}{told}: {load:6.1f} ms from the claim to the body, {body:6.1f} ms in the"
                f" body, {body / LONG * 1e3:5.2f} µs per operation, {here.beside(body / LONG / 1e3)}"
            )
            found += [sum(each) for each in lives]
        what = f"{kind}, ms from the claim to the end of the replay of {LONG:,} operations{told}"
        report.gate(what, statistics.median(found), REPLAY_MS, at_least=False)


def measure_children(report: Report, kind: Kind, directory: str | None, rounds: int) -> None:
    """Child runs."""
    for _ in range(rounds):
        with place(kind, directory) as here:
            few_s = asyncio.run(families(here.url)) / (PARENTS * EACH)
        report.line(
            f"  {PARENTS:,} parents x {EACH} children: {1 / few_s:8,.0f} children/s, {here.beside(few_s)}"
        )
    for _ in range(rounds):
        with place(kind, directory) as here:
            many_s = asyncio.run(one(here.url, clan, WIDE, sum(range(1, WIDE + 1)))) / WIDE
        report.line(f"  1 parent x {WIDE:,} children: {1 / many_s:8,.0f} children/s, {here.beside(many_s)}")


def main() -> int:
    """Measure everything; 1 when a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("memory", "sqlite", "dbos"), help="measure one of them")
    parser.add_argument("--dir", help="where database files are made (default: the temp directory)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements behind each median")
    options = parser.parse_args()
    report = Report()
    kinds: tuple[Kind, ...] = ("memory", "sqlite")
    for kind in kinds:
        if options.only in {None, kind}:
            report.line(f"durable functions, {kind}")
            measure_live(report, kind, options.dir, options.rounds)
            measure_replay(report, kind, options.dir, options.rounds)
            measure_children(report, kind, options.dir, options.rounds)
    if options.only in {None, "dbos"}:
        measure_dbos(report, options.dir)
    if report.missed:
        report.line(f"missed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
