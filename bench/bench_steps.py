"""Durable steps per second: one run of many steps, many runs of ten, in memory, on SQLite and on PostgreSQL.

Everything is measured beside its bare counterpart in the same run, and ratios are printed with the budget
they are held to. Exit status 1 when a budget is missed. Without a URL, a PostgreSQL server of the `pgserver`
wheel is started.

    python bench/bench_steps.py [--only STORE] [--dir DIRECTORY] [--postgres URL] [--rounds N]
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from holdfast import AsyncEngine, Flow

LENGTHS = (10, 100, 1_000, 10_000)
RUNS = 1_000
STEPS = 10
EDGE = 200
"""Steps at the start and at the end of a long run that are compared."""


async def add(x: int) -> int:
    """The body: nothing but the engine is measured."""
    return x + 1


class Marks:
    """A body that notes when it ran, to see the cost of early and late steps."""

    def __init__(self) -> None:
        """No step has run."""
        self.at: list[float] = []

    async def __call__(self, x: int) -> int:
        """Note the time and go on."""
        self.at.append(time.perf_counter())
        return x + 1


def pipeline(name: str, steps: int, body: object = add) -> Flow:
    """A flow of equal steps."""
    flow = Flow(name)
    for n in range(steps):
        flow.then(body, name=f"step{n}")  # type: ignore[arg-type] - any callable
    return flow


def raw_sqlite(path: Path, transactions: int) -> float:
    """Rate of one row per transaction, WAL, synchronous=FULL: what the disk allows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute(
            "create table journal (run integer, position integer, entry blob,"
            " primary key (run, position)) without rowid"
        )
        begun = time.perf_counter()
        for n in range(transactions):
            connection.execute("begin immediate")
            connection.execute("insert into journal values (1, ?, ?)", (n, b"x" * 60))
            connection.execute("commit")
        return transactions / (time.perf_counter() - begun)


async def one_run(url: str, steps: int) -> tuple[float, float, float]:
    """Steps/s of one sequential run, and µs per step at its start and at its end."""
    marks = Marks()
    flow = pipeline("line", steps, marks)
    async with AsyncEngine(url, workflows=[flow]) as engine:
        begun = time.perf_counter()
        handle = await engine.start(flow, 0)
        if await handle.result() != steps:
            raise SystemExit("the run gave a wrong result")
        spent = time.perf_counter() - begun
    at = marks.at
    edge = min(EDGE, steps // 2)
    first = statistics.median(b - a for a, b in itertools.pairwise(at[: edge + 1]))
    last = statistics.median(b - a for a, b in itertools.pairwise(at[-edge - 1 :]))
    return steps / spent, first * 1e6, last * 1e6


async def many_runs(url: str) -> tuple[float, float]:
    """Seconds to start 1,000 runs, and from then to the last result of their 10 steps.

    The first bodies wait until every run has started, so that all 1,000 runs are active side by side and each
    of the 10,000 steps is made and recorded inside the second time.
    """
    gate = asyncio.Event()
    waiting = 0
    all_wait = asyncio.Event()

    async def first(x: int) -> int:
        nonlocal waiting
        waiting += 1
        if waiting == RUNS:
            all_wait.set()
        await gate.wait()
        return x + 1

    flow = Flow("ten").then(first, name="step0")
    for n in range(1, STEPS):
        flow.then(add, name=f"step{n}")
    async with AsyncEngine(url, workflows=[flow], concurrency=RUNS) as engine:
        gc.collect()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as starting:
            handles = [starting.create_task(engine.start(flow, n)) for n in range(RUNS)]
        await all_wait.wait()
        started = time.perf_counter()
        gate.set()
        for n, handle in enumerate(handles):
            if await handle.result().result() != n + STEPS:
                raise SystemExit("a run gave a wrong result")
        return started - begun, time.perf_counter() - started


async def bare_loop() -> float:
    """µs that the event loop alone needs for 10,000 steps: make a future, wait for it, be woken."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    async def body() -> None:
        for _ in range(STEPS):
            future: asyncio.Future[None] = loop.create_future()
            waiting.append(future)
            await future

    async with asyncio.TaskGroup() as bodies:
        for _ in range(RUNS):
            bodies.create_task(body())
        begun = time.perf_counter()
        for _ in range(STEPS):
            await asyncio.sleep(0)
            for future in waiting:
                future.set_result(None)
            waiting.clear()
    return (time.perf_counter() - begun) / (RUNS * STEPS) * 1e6


class Report:
    """Prints figures, and remembers which budgets were missed."""

    def __init__(self) -> None:
        """No budget is missed yet."""
        self.missed: list[str] = []

    def line(self, text: str) -> None:
        """Print one figure."""
        print(text, flush=True)

    def gate(self, what: str, value: float, bound: float, *, at_least: bool) -> None:
        """Print a figure with its budget."""
        good = value >= bound if at_least else value <= bound
        sign = ">=" if at_least else "<="
        self.line(f"  {'ok    ' if good else 'MISSED'} {what}: {value:,.2f} (budget {sign} {bound:,})")
        if not good:
            self.missed.append(what)


@contextlib.contextmanager
def databases(directory: str | None) -> Iterator[Path]:
    """A directory for the database files of one measurement."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="holdfast-bench-") as name:
        yield Path(name)


async def raw_postgres(url: str, transactions: int) -> float:
    """Rate of one row per transaction over one connection of the driver: what server and disk allow."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("drop table if exists raw_journal")
        await connection.execute(
            "create table raw_journal (run bigint, position int, entry bytea, primary key (run, position))"
        )
        insert = await connection.prepare("insert into raw_journal values (1, $1, $2)")
        begun = time.perf_counter()
        for n in range(transactions):
            await insert.fetch(n, b"x" * 60)
        return transactions / (time.perf_counter() - begun)
    finally:
        await connection.close()


async def first_steps(here: str, there: str | None, count: int) -> list[float]:
    """Milliseconds from the call of `start` to the first step, one at a time, with an idle worker.

    Args:
        here: URL of the engine that starts.
        there: URL of the engine that drives; None where it is the same.
        count: Of starts.
    """
    began: list[float] = []

    async def note(x: int) -> int:
        began.append(time.perf_counter())
        return x

    flow = Flow("first").then(note)
    spent: list[float] = []
    async with contextlib.AsyncExitStack() as engines:
        if there is not None:
            await engines.enter_async_context(AsyncEngine(there, workflows=[flow]))
        starts = AsyncEngine(here, workflows=[flow], worker="auto" if there is None else False)
        engine = await engines.enter_async_context(starts)
        for n in range(count):
            begun = time.perf_counter()
            handle = await engine.start(flow, n)
            await handle.result()
            spent.append((began[-1] - begun) * 1e3)
            await asyncio.sleep(0.01)
    return spent


def percentiles(values: list[float]) -> tuple[float, float]:
    """The median, and what 99 in 100 stay below."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


@contextlib.contextmanager
def postgres(url: str | None) -> Iterator[str]:
    """A server: the one that is named, or one of our own for as long as this lasts."""
    if url is not None:
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on the environment
        import pgserver  # noqa: PLC0415 - only where it is needed

    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        server = pgserver.get_server(name)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


SCHEMAS = itertools.count()


def fresh(url: str) -> str:
    """The same server with an empty schema."""
    sign = "&" if "?" in url else "?"
    return f"{url}{sign}schema=bench_{os.getpid()}_{next(SCHEMAS)}&migrate=on"


def measure_postgres(report: Report, url: str, rounds: int) -> None:
    """What is measured on SQLite, on a server."""
    report.line("PostgreSQL")
    ratios: list[float] = []
    for steps in LENGTHS:
        for _ in range(rounds):
            raw = asyncio.run(raw_postgres(url, min(max(steps, 200), 2_000)))
            rate, first, last = asyncio.run(one_run(fresh(url), steps))
            if steps == LENGTHS[-1]:
                ratios.append(rate / raw)
            report.line(
                f"  {steps:6,} steps: {rate:8,.0f}/s  raw {raw:8,.0f}/s  ratio {rate / raw:.2f}"
                f"  µs per step {first:6.1f} at the start, {last:6.1f} at the end"
            )
    report.gate("postgresql, ratio to raw", statistics.median(ratios), 0.60, at_least=True)
    many: list[float] = []
    for _ in range(rounds):
        raw = asyncio.run(raw_postgres(url, 500))
        starting, spent = asyncio.run(many_runs(fresh(url)))
        many.append(RUNS * STEPS / spent)
        report.line(
            f"  {RUNS:,} runs of {STEPS}: {many[-1]:8,.0f} steps/s, {many[-1] / raw:5.1f} x raw"
            f" transactions/s;  {RUNS / starting:8,.0f} starts/s"
        )
    report.gate("postgresql, steps/s", statistics.median(many), 30_000, at_least=True)
    place = fresh(url)
    p50, p99 = percentiles(asyncio.run(first_steps(place, place, 200)))
    report.line(f"  start to first step, another engine drives: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    report.gate("postgresql, start to first step, p50 ms", p50, 20, at_least=False)


def measure_first_step(report: Report, directory: str | None) -> None:
    """Start to first step on SQLite, in the process that drives."""
    with databases(directory) as folder:
        p50, p99 = percentiles(asyncio.run(first_steps(f"sqlite:///{folder / 'first.db'}", None, 200)))
    report.line(f"start to first step, sqlite, same process: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    report.gate("sqlite, start to first step, p50 ms", p50, 5, at_least=False)


def measure_one_run(report: Report, directory: str | None, rounds: int) -> None:
    """One run of 10 to 10,000 steps beside raw transactions, in pairs so that the disk's drift cancels."""
    report.line("one run, sequential steps")
    for steps in LENGTHS:
        ratios: list[float] = []
        for _ in range(rounds):
            with databases(directory) as folder:
                raw = raw_sqlite(folder / "raw.db", min(max(steps, 200), 2_000))
                rate, first, last = asyncio.run(one_run(f"sqlite:///{folder / 'run.db'}", steps))
            ratios.append(rate / raw)
            report.line(
                f"  sqlite {steps:6,} steps: {rate:8,.0f}/s  raw {raw:8,.0f}/s  ratio {rate / raw:.2f}"
                f"  µs per step {first:6.1f} at the start, {last:6.1f} at the end"
            )
        if steps == LENGTHS[-1]:
            report.gate("sqlite, ratio to raw", statistics.median(ratios), 0.65, at_least=True)
    flat: list[float] = []
    for steps in LENGTHS:
        rate, first, last = asyncio.run(one_run("memory://", steps))
        report.line(
            f"  memory {steps:6,} steps: {rate:8,.0f}/s"
            f"  µs per step {first:6.1f} at the start, {last:6.1f} at the end"
        )
    for _ in range(rounds):
        _, first, last = asyncio.run(one_run("memory://", LENGTHS[-1]))
        flat.append(last / first)
    report.gate("memory, step 10,000 / step 10", statistics.median(flat), 1.1, at_least=False)


def measure_many_runs(report: Report, directory: str | None, rounds: int) -> None:
    """1,000 concurrent runs of 10 steps, beside what the event loop and the disk allow."""
    total = RUNS * STEPS
    report.line(f"{RUNS:,} concurrent runs of {STEPS} async steps")
    memory: list[float] = []
    for _ in range(rounds):
        bare = asyncio.run(bare_loop())
        starting, spent = asyncio.run(many_runs("memory://"))
        memory.append(spent / total * 1e6)
        report.line(
            f"  memory: {memory[-1]:5.1f} µs per step, {memory[-1] / bare:4.1f} x the bare event loop's"
            f" {bare:.1f};  {starting / RUNS * 1e6:5.1f} µs per start"
        )
    sqlite: list[float] = []
    for _ in range(rounds):
        with databases(directory) as folder:
            raw = raw_sqlite(folder / "raw.db", 500)
            starting, spent = asyncio.run(many_runs(f"sqlite:///{folder / 'runs.db'}"))
            size = (folder / "runs.db").stat().st_size
        sqlite.append(total / spent)
        report.line(
            f"  sqlite: {sqlite[-1]:8,.0f} steps/s, {sqlite[-1] / raw:5.1f} x raw transactions/s,"
            f" {size / total:5.1f} bytes per step;  {RUNS / starting:8,.0f} starts/s"
        )
    report.gate("sqlite, steps/s", statistics.median(sqlite), 40_000, at_least=True)
    report.gate("memory, µs per step", statistics.median(memory), 6, at_least=False)


def main() -> int:
    """Measure everything; 1 when a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("embedded", "postgres"), help="measure one of the two")
    parser.add_argument("--dir", help="where database files are made (default: the temp directory)")
    parser.add_argument("--postgres", metavar="URL", help="a server to use instead of one of our own")
    parser.add_argument("--rounds", type=int, default=5, help="measurements behind each median")
    options = parser.parse_args()
    report = Report()
    if options.only != "postgres":
        measure_one_run(report, options.dir, options.rounds)
        measure_many_runs(report, options.dir, options.rounds)
        measure_first_step(report, options.dir)
    if options.only != "embedded":
        with postgres(options.postgres) as url:
            measure_postgres(report, url, options.rounds)
    if report.missed:
        report.line(f"missed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
