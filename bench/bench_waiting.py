"""Runs that wait: 100,000 of them in one SQLite file, asleep, woken, and signalled.

Each measurement has a process of its own, so that memory is that of a worker which has just opened the file.
Exit status 1 when a budget is missed.

    python bench/bench_waiting.py [--large | --runs N] [--dir DIRECTORY] [--postgres URL]
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import multiprocessing
import random
import sqlite3
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from bench_steps import Report, databases, fresh, percentiles, raw_postgres

from holdfast import AsyncEngine, Flow
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import is_postgres, store_at

RUNS = 100_000
RUNS_LARGE = 1_000_000
STARTERS = 512
"""Starts that are under way at once."""
DAY_MS = 86_400_000
SETTLE_S = 2.0
"""What a worker gets to look at the file and come to rest."""
PER_SECOND = 500
"""Runs that fall due each second while lateness is measured, for `STEADY_S`."""
STEADY_S = 10
NAP_S = STEADY_S + 3
"""They are started at the same pace, and the first falls due when the last was started and recorded."""
SINGLE = 200
"""Signals that are sent one at a time."""
CROWD = 1_000
"""Signals that are sent at once."""
WAKES_PER_S = 2_000
RSS_MB = 200

P = ParamSpec("P")
T = TypeVar("T")


class Later(SystemClock):
    """The machine's clock, but people have set it ahead: a worker that opens the file so much later."""

    def __init__(self, ahead_ms: int) -> None:
        """Args: by how much."""
        self._ahead_ms = ahead_ms

    def wall_ms(self) -> int:
        """See `Clock`."""
        return super().wall_ms() + self._ahead_ms


class Noted:
    """A body that notes when it begins (`at`), and with what (`given`); a million of them take 16 MB."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Args: by which clock."""
        self.now = now
        self.at, self.given = array("d"), array("d")
        self._awaited = 0
        self._have_come = asyncio.Event()

    async def __call__(self, x: float) -> None:
        """Note it."""
        self.at.append(self.now())
        self.given.append(x)
        if len(self.at) >= self._awaited:
            self._have_come.set()

    async def wait_for(self, count: int) -> None:
        """Return when it has begun so often."""
        self._awaited = count
        if len(self.at) < count:
            self._have_come.clear()
            await self._have_come.wait()


def sleeper(until_ms: int, body: Noted) -> Flow:
    """Sleeps until a moment that is the same for all."""
    until = datetime.fromtimestamp(until_ms / 1_000, UTC)
    return Flow("sleeper").delay("sleep", until=until).then(body, name="woken")


def nap(body: Noted) -> Flow:
    """Sleeps for a while, counted from its start."""
    return Flow("nap").delay("sleep", NAP_S).then(body, name="woken")


def waiter(body: Noted) -> Flow:
    """Waits for a signal, whose payload is the moment at which it was sent."""
    return Flow("waiter").wait_for_signal("go").then(body, name="resumed")


def in_a_process(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `fn` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fn, *args, **kwargs).result()


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process now, and the most it ever was."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    now, most = (int(facts[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


async def start_all(url: str, flow: Flow, names: Iterator[str]) -> None:
    """Start a run for each name, many at once, and let them come to rest."""
    async with AsyncEngine(url, workflows=[flow]) as engine, asyncio.TaskGroup() as starting:

        async def start() -> None:
            for name in names:
                await engine.start(flow, 0.0, id=name)

        for _ in range(STARTERS):
            starting.create_task(start())


def fill(url: str, runs: int, until_ms: int) -> float:
    """Start the sleepers; how many a second, from opening the store to closing it, when all sleep."""
    flow = sleeper(until_ms, Noted())
    begun = time.perf_counter()
    asyncio.run(start_all(url, flow, (f"sleeper-{n}" for n in range(runs))))
    spent = time.perf_counter() - begun
    asyncio.run(start_all(url, waiter(Noted()), (f"waiter-{n}" for n in range(2 * SINGLE + CROWD))))
    return runs / spent


def rest(url: str, until_ms: int) -> tuple[float, float]:
    """Memory of a worker beside all the sleepers, and the seconds it took to open the store."""

    async def work() -> tuple[float, float]:
        body = Noted()
        begun = time.perf_counter()
        async with AsyncEngine(url, workflows=[sleeper(until_ms, body), waiter(body)]):
            spent = time.perf_counter() - begun
            await asyncio.sleep(SETTLE_S)
            return memory_mb()[0], spent

    return asyncio.run(work())


def wake_steadily(url: str, until_ms: int) -> list[float]:
    """How late, in ms, the steps after sleeps begin while `PER_SECOND` fall due each second."""

    async def work() -> list[float]:
        store = store_at(url, worker="auto", clock=SystemClock())
        body = Noted(store.now_ms)
        flow, count = nap(body), PER_SECOND * STEADY_S
        async with AsyncEngine(store=store, workflows=[flow, sleeper(until_ms, body)]) as engine:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as starting:
                for n in range(count):
                    await asyncio.sleep(begun + n / PER_SECOND - time.perf_counter())
                    starting.create_task(engine.start(flow, float(n), id=f"nap-{n}"))
            await body.wait_for(count)
            due: dict[str, float] = {}
            after = None
            while len(due) < count:
                page = await engine.list(workflow="nap", limit=1_000, after=after)
                due |= {run.id: run.created_at.timestamp() * 1_000 + NAP_S * 1_000 for run in page}
                after = page[-1].id
            return [at_ms - due[f"nap-{int(n)}"] for at_ms, n in zip(body.at, body.given, strict=True)]

    return asyncio.run(work())


def wake_at_once(url: str, runs: int, until_ms: int, *, ahead: bool) -> tuple[float, list[float], float]:
    """Wake all sleepers, who are due at one moment.

    Returns:
        Wakes/s from that moment to the beginning of the last one's next step, the same for each tenth of the
        runs, and the most memory this process ever had.
    """

    async def work() -> tuple[float, list[float], float]:
        shift_ms = until_ms - int(SETTLE_S * 1_000) - SystemClock().wall_ms() if ahead else 0
        clock = Later(shift_ms)
        store = store_at(url, worker="auto", clock=clock)
        body = Noted(store.now_ms)
        async with AsyncEngine(store=store, clock=clock, workflows=[sleeper(until_ms, body)]):
            await body.wait_for(runs)
        at = [until_ms, *body.at[runs // 10 - 1 :: runs // 10]]
        tenths = [runs / 10 / (b - a) * 1e3 for a, b in itertools.pairwise(at)]
        return runs / (body.at[runs - 1] - until_ms) * 1e3, tenths, memory_mb()[1]

    return asyncio.run(work())


def send_from_outside(url: str, names: list[str]) -> None:
    """Signal each run from a client, at moments that have nothing to do with when the worker looks."""

    async def work() -> None:
        async with AsyncEngine(url, worker=False) as client:
            for name in names:
                await asyncio.sleep(random.uniform(0.01, 0.12))
                await client.send_signal(name, "go", time.perf_counter())

    asyncio.run(work())


def signal(url: str, until_ms: int) -> tuple[list[float], list[float], float, float]:
    """Signal runs that wait, beside all the sleepers.

    Returns:
        Milliseconds from the call of `send_signal` to the beginning of the next step, one at a time, from this
        process and from another one. Then signals/s and resumed runs/s with many at once.
    """

    async def work() -> tuple[list[float], list[float], float, float]:
        body = Noted()
        names = [f"waiter-{n}" for n in range(2 * SINGLE + CROWD)]
        flows = [waiter(body), sleeper(until_ms, Noted())]
        async with AsyncEngine(url, workflows=flows) as engine:
            await asyncio.sleep(SETTLE_S)
            for n, name in enumerate(names[:SINGLE], 1):
                await engine.send_signal(name, "go", time.perf_counter())
                await body.wait_for(n)
                await asyncio.sleep(0.005)
            sending = functools.partial(in_a_process, send_from_outside, url, names[SINGLE : 2 * SINGLE])
            await asyncio.get_running_loop().run_in_executor(None, sending)
            await body.wait_for(2 * SINGLE)
            await asyncio.sleep(0.5)
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as signals:
                for name in names[2 * SINGLE :]:
                    signals.create_task(engine.send_signal(name, "go", begun))
            sent = time.perf_counter()
            await body.wait_for(len(names))
        spent = [(at - since) * 1e3 for at, since in zip(body.at, body.given, strict=True)]
        resumed = body.at[-1]
        return spent[:SINGLE], spent[SINGLE : 2 * SINGLE], CROWD / (sent - begun), CROWD / (resumed - begun)

    return asyncio.run(work())


def raw_signals(path: Path, count: int) -> float:
    """Rate of what a signal writes, one transaction each, WAL, synchronous=FULL: what the disk allows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("create table runs (key integer primary key, sent integer, due integer)")
        connection.execute("create index runs_due on runs (due) where due is not null")
        connection.execute("create table ids (run, id, primary key (run, id)) without rowid")
        connection.execute("create table inbox (run, seq, id, payload, primary key (run, seq)) without rowid")
        connection.executemany("insert into runs values (?, 0, null)", [(n,) for n in range(count)])
        begun = time.perf_counter()
        for n in range(count):
            connection.execute("begin immediate")
            connection.execute("insert into ids values (?, ?)", (n, "m" * 30))
            connection.execute("update runs set sent = sent + 1, due = ? where key = ?", (n, n))
            connection.execute("insert into inbox values (?, 1, ?, ?)", (n, "m" * 30, b"x" * 20))
            connection.execute("commit")
        return count / (time.perf_counter() - begun)


def measure_waiting(report: Report, url: str, runs: int, raw_rate: Callable[[], float]) -> None:
    """All of it beside so many sleepers; `raw_rate` is of the bare store's transactions."""
    on_server = is_postgres(url)
    # A file can be opened by a process whose clock is a day ahead; a server has its own, and is waited for.
    until_ms = SystemClock().wall_ms() + (90_000 + runs if on_server else DAY_MS)
    report.line(f"  started: {in_a_process(fill, url, runs, until_ms):8,.0f} runs/s")
    memory, spent = in_a_process(rest, url, until_ms)
    report.line(f"  opened in {spent:.2f} s")
    report.gate(f"memory of a worker beside {runs:,} sleepers, MB", memory, RSS_MB, at_least=False)
    late = in_a_process(wake_steadily, url, until_ms)
    p50, p99 = percentiles(late)
    report.line(f"  {PER_SECOND} due each second: step begins p50 {p50:.1f} ms, p99 {p99:.1f} ms after that")
    here, there, sent, resumed = in_a_process(signal, url, until_ms)
    for where, values in (("same process", here), ("another process", there)):
        p50, p99 = percentiles(values)
        report.line(f"  signal to next step, {where}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    report.line(f"  {CROWD:,} signals at once: {sent:8,.0f} signals/s, {resumed:8,.0f} resumed runs/s")
    raw = raw_rate()
    report.line(f"    raw transactions: {raw:8,.0f}/s, ratio {sent / raw:.2f}")
    if SystemClock().wall_ms() > until_ms - 5_000:
        raise SystemExit("the sleepers were due before everything else was measured: take fewer")
    rate, tenths, most = in_a_process(wake_at_once, url, runs, until_ms, ahead=not on_server)
    report.line(f"  wakes/s by tenths: {' '.join(f'{each:,.0f}' for each in tenths)}")
    report.line(f"  memory at most {most:,.0f} MB while they were woken")
    report.gate(f"{runs:,} due at once, wakes/s", rate, WAKES_PER_S, at_least=True)


def main() -> int:
    """Measure everything; 1 when a budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="that sleep (default: 100,000)")
    parser.add_argument("--large", action="store_const", dest="runs", const=RUNS_LARGE, help="1,000,000")
    parser.add_argument("--dir", help="where database files are made (default: the temp directory)")
    parser.add_argument("--postgres", metavar="URL", help="measure on this server instead")
    options = parser.parse_args()
    report = Report()
    report.line(f"{options.runs:,} sleeping runs, {'PostgreSQL' if options.postgres else 'one SQLite file'}")
    if options.postgres:
        server = options.postgres
        measure_waiting(report, fresh(server), options.runs, lambda: asyncio.run(raw_postgres(server, CROWD)))
    else:
        with databases(options.dir) as folder:
            url, raw = f"sqlite:///{folder / 'waiting.db'}", folder / "raw.db"
            measure_waiting(report, url, options.runs, lambda: raw_signals(raw, CROWD))
    if report.missed:
        report.line(f"missed: {', '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
