"""What `bench_functions.py` measures, done with DBOS Transact on SQLite, where that is installed.

Each measurement has a process of its own. The file is set to WAL first, as ours is, and DBOS keeps that; with
the rollback journal that it has by itself it would be slower. It gets fewer operations to do than ours, so
that it is done in the same time; figures are per operation.

    pip install dbos    # into an environment of yours: nothing of ours needs it
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from bench_steps import Report, databases, raw_sqlite
from bench_waiting import in_a_process

RUNS, OPERATIONS = 100, 10
LONG = 1_000
PARENTS, EACH = 100, 3
WIDE = 100
GATHERS, WIDTH = 10, 100
PATIENCE_S = 120


class Life:
    """What the body of the long run notes: when it has begun, and when it has come to its end."""

    def __init__(self, *, is_killed: bool) -> None:
        """Args: whether the process ends there, as if it were killed."""
        self.is_killed = is_killed
        self.begun_s = self.ended_s = 0.0
        self.has_ended = threading.Event()

    def end(self) -> None:
        """The body has come to its end."""
        self.ended_s = time.perf_counter()
        if self.is_killed:
            os._exit(0)
        self.has_ended.set()


def define_steps(life: Life) -> dict[str, Any]:
    """Register workflows of steps, under the same names in each process."""
    from dbos import DBOS  # noqa: PLC0415 - only where it is there

    @DBOS.step()
    async def add(x: int) -> int:
        return x + 1

    @DBOS.workflow()
    async def line(count: int) -> int:
        x = 0
        for _ in range(count):
            x = await add(x)
        return x

    @DBOS.workflow()
    async def broad(width: int) -> int:
        done = 0
        for _ in range(GATHERS):
            done += len(await asyncio.gather(*(add(n) for n in range(width))))
        return done

    @DBOS.workflow()
    async def long(count: int) -> int:
        life.begun_s = time.perf_counter()
        x = 0
        for _ in range(count):
            x = await add(x)
        life.end()
        return x

    return {"line": line, "broad": broad, "long": long}


def define_children() -> dict[str, Any]:
    """Register workflows of child runs."""
    from dbos import DBOS  # noqa: PLC0415 - as above

    @DBOS.workflow()
    async def leaf(x: int) -> int:
        return x + 1

    async def children(inputs: list[int]) -> int:
        handles = [await DBOS.start_workflow_async(leaf, x) for x in inputs]
        return sum([await handle.get_result() for handle in handles])

    @DBOS.workflow()
    async def family(x: int) -> int:
        return await children([x] * EACH)

    @DBOS.workflow()
    async def clan(count: int) -> int:
        return await children(list(range(count)))

    return {"family": family, "clan": clan}


@contextlib.contextmanager
def launched(path: Path, life: Life) -> Iterator[dict[str, Any]]:
    """DBOS on that file, and its workflows by name."""
    from dbos import DBOS  # noqa: PLC0415 - as above

    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode=wal")
    # The version is what it knows its own runs by after a crash.
    config = {"system_database_url": f"sqlite:///{path}", "application_version": "1", "log_level": "ERROR"}
    DBOS(config={"name": "bench", **config})
    defined = define_steps(life) | define_children()
    DBOS.launch()
    try:
        yield defined
    finally:
        DBOS.destroy()


def runs(path: Path, name: str, inputs: list[int], wanted: list[int]) -> float:
    """Seconds for runs of one workflow side by side, from the first start to the last result."""
    from dbos import DBOS  # noqa: PLC0415 - as above

    async def work(workflow: Callable[[int], Coroutine[Any, Any, int]]) -> float:
        begun = time.perf_counter()
        handles = await asyncio.gather(*(DBOS.start_workflow_async(workflow, x) for x in inputs))
        given = [await handle.get_result() for handle in handles]
        spent = time.perf_counter() - begun
        if given != wanted:
            raise SystemExit("a run of DBOS gave a wrong result")
        return spent

    with launched(path, Life(is_killed=False)) as defined:
        return asyncio.run(work(defined[name]))


def die(path: Path, count: int) -> None:
    """Make a run of so many steps, and end the process at the end of its body."""
    from dbos import DBOS  # noqa: PLC0415 - as above

    async def work(workflow: Callable[[int], Coroutine[Any, Any, int]]) -> None:
        await (await DBOS.start_workflow_async(workflow, count)).get_result()

    with launched(path, Life(is_killed=True)) as defined:
        asyncio.run(work(defined["long"]))


def replay(path: Path) -> tuple[float, float]:
    """Seconds from the launch to the first line of the body that was cut off, and from there to its end."""
    life = Life(is_killed=False)
    begun = time.perf_counter()
    with launched(path, life):
        if not life.has_ended.wait(PATIENCE_S):
            raise SystemExit("DBOS did not go on with the run that was cut off")
    return life.begun_s - begun, life.ended_s - life.begun_s


class Beside:
    """One directory, one measurement after the other, each beside raw transactions."""

    def __init__(self, report: Report, folder: Path) -> None:
        """Args: where figures and files go."""
        self._report = report
        self._folder = folder
        self._count = 0

    def path(self) -> Path:
        """A file that is not there yet."""
        self._count += 1
        return self._folder / f"{self._count}.db"

    def operations(self, what: str, name: str, inputs: list[int], wanted: list[int]) -> None:
        """Steps; the outputs of the runs count them."""
        raw = raw_sqlite(self.path(), 500)
        each = in_a_process(runs, self.path(), name, inputs, wanted) / sum(wanted)
        self._report.line(
            f"  {what}: {each * 1e6:8.1f} µs per operation, {1 / each / raw:5.2f} x raw transactions"
        )

    def children(self, what: str, name: str, inputs: list[int], wanted: list[int], count: int) -> None:
        """So many child runs."""
        raw = raw_sqlite(self.path(), 500)
        rate = count / in_a_process(runs, self.path(), name, inputs, wanted)
        self._report.line(f"  {what}: {rate:8,.0f} children/s, {rate / raw:5.2f} x raw transactions")

    def replay(self) -> None:
        """A run whose process ends after its last step, and which another one goes on with."""
        path = self.path()
        cut = multiprocessing.get_context("spawn").Process(target=die, args=(path, LONG))
        cut.start()
        cut.join()
        launch, body = in_a_process(replay, path)
        self._report.line(
            f"  replay of {LONG:,}: {launch * 1e3:6.1f} ms from the launch to the body, {body * 1e3:6.1f} ms in"
            f" the body, {body / LONG * 1e6:6.2f} µs per operation"
        )


def measure_dbos(report: Report, directory: str | None) -> None:
    """All of it, once."""
    if importlib.util.find_spec("dbos") is None:
        report.line("dbos is not installed here, so there is nothing beside ours: pip install dbos")
        return
    report.line(f"the same with DBOS {importlib.metadata.version('dbos')}, SQLite")
    with databases(directory) as folder:
        beside = Beside(report, folder)
        each, broad = [OPERATIONS] * RUNS, GATHERS * WIDTH
        beside.operations(f"{RUNS} runs x {OPERATIONS} operations", "line", each, each)
        one = "one run, {:,} operations, {}"
        beside.operations(one.format(LONG, "one after the other"), "line", [LONG], [LONG])
        beside.operations(one.format(broad, f"gathers of {WIDTH}"), "broad", [WIDTH], [broad])
        beside.replay()
        sums = [EACH * (n + 1) for n in range(PARENTS)]
        few = f"{PARENTS} parents x {EACH} children"
        beside.children(few, "family", list(range(PARENTS)), sums, PARENTS * EACH)
        beside.children(f"1 parent x {WIDE} children", "clan", [WIDE], [sum(range(1, WIDE + 1))], WIDE)
