"""Worker processes over one PostgreSQL database, what befalls them, and what must be true afterwards."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from holdfast import AsyncEngine
from holdfast.codecs.entries import decode_entry
from holdfast.core.entries import StepCompleted
from holdfast.runtime.urls import without_ours
from tests.integration.chaos_flow import STEPS, flow

ROOT = Path(__file__).parents[2]
LOOK_S = 0.05
PATIENCE_S = 120
ENTRIES_OF_A_RUN = STEPS + 2


@dataclass(frozen=True)
class Mark:
    """A line that a body left: `began` or `effect`."""

    kind: str
    run_id: str
    step: str
    pid: int
    at_ms: int


@dataclass
class Fleet:
    """Some workers on one database.

    Attributes:
        victims: Processes that were killed or frozen.
    """

    url: str
    schema: str
    folder: Path
    body_s: float
    lease: str
    concurrency: int = 50
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)

    @property
    def effects(self) -> Path:
        return self.folder / "effects.txt"

    @property
    def log(self) -> Path:
        return self.folder / "workers.log"

    def hire(self) -> subprocess.Popen[bytes]:
        """Start a worker process, as a user would."""
        environment = os.environ | {"CHAOS_EFFECTS": str(self.effects), "CHAOS_BODY_S": str(self.body_s)}
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "holdfast.cli", "worker", "tests.integration.chaos_flow"),
                    *("--db", self.url, "--lease", self.lease, "--concurrency", str(self.concurrency)),
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL; another one takes its place."""
        self.victims.add(worker.pid)
        worker.kill()
        worker.wait()
        self.workers.remove(worker)
        self.hire()

    def freeze(self, worker: subprocess.Popen[bytes]) -> None:
        self.victims.add(worker.pid)
        worker.send_signal(signal.SIGSTOP)

    def thaw(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGCONT)

    def dismiss(self) -> list[int]:
        """SIGTERM to all; their exit statuses."""
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        return [worker.wait(PATIENCE_S) for worker in self.workers]


@contextlib.asynccontextmanager
async def fleet(
    url: str, schema: str, folder: Path, *, body_s: float, workers: int, runs: int, lease: str = "2s"
) -> AsyncGenerator[Fleet]:
    """Workers with so many runs to do; at the end they are dismissed and must have gone in order."""
    made = Fleet(url, schema, folder, body_s, lease)
    async with AsyncEngine(url, workflows=[flow], worker=False) as engine, asyncio.TaskGroup() as starting:
        for n in range(runs):
            starting.create_task(engine.start(flow, n, id=f"run-{n}"))
    try:
        for _ in range(workers):
            made.hire()
        yield made
        assert made.dismiss() == [0] * len(made.workers), made.log.read_text()
    finally:
        for worker in made.workers:
            worker.kill()
            worker.wait()


def plain(url: str) -> str:
    """The URL without our options."""
    return without_ours(url)[0].replace(f"&schema={url.partition('schema=')[2].partition('&')[0]}", "")


async def ask(made: Fleet, question: str) -> Any:  # noqa: ANN401 - what the database answers
    """One value; asked again while the server is away."""
    while True:
        try:
            connection = await asyncpg.connect(plain(made.url))
            try:
                return await connection.fetchval(question.format(schema=made.schema))
            finally:
                await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(LOOK_S)


async def until(made: Fleet, question: str, is_so: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - as above
    """Ask until the answer is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so(answer := await ask(made, question)):  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(LOOK_S)
    return answer


ENTRIES = "select coalesce(sum(position), 0) from {schema}.runs"
OPEN = "select count(*) from {schema}.runs where status not in ('completed', 'failed', 'cancelled')"


async def until_over(made: Fleet) -> None:
    """Every run has ended; if not, what is left is shown."""
    try:
        await until(made, OPEN, lambda count: count == 0)
    except TimeoutError:
        left = await ask(
            made,
            "select string_agg(concat_ws(' ', id, status, worker, due_at_ms, recoveries, position), E'\\n')"
            " from (select * from {schema}.runs where status <> 'completed' limit 20) as r",
        )
        raise AssertionError(f"runs that did not end:\n{left}\n{made.log.read_text()[-3_000:]}") from None


async def check(made: Fleet, *, runs: int) -> int:
    """What must be true when all is over; returns how many bodies had their effect twice."""
    connection = await asyncpg.connect(plain(made.url))
    try:
        rows = await connection.fetch(
            f"select id, status, recoveries from {made.schema}.runs"  # noqa: S608 - a name of ours
        )
        entries = await connection.fetch(
            f"select r.id, j.position, j.at_ms, j.entry from {made.schema}.journal as j"  # noqa: S608 - a name of ours
            f" join {made.schema}.runs as r on r.key = j.run order by r.id, j.position"
        )
    finally:
        await connection.close()
    assert {(row["status"], row["recoveries"]) for row in rows} == {("completed", 0)}
    assert len(rows) == runs
    positions: dict[str, list[int]] = {}
    completed: dict[tuple[str, str], int] = {}
    for row in entries:
        positions.setdefault(row["id"], []).append(row["position"])
        entry = decode_entry(row["entry"], run_id=row["id"], position=row["position"])
        if isinstance(entry, StepCompleted):
            assert (row["id"], entry.step) not in completed, "a step completed twice"
            completed[row["id"], entry.step] = row["at_ms"]
    assert all(found == list(range(1, ENTRIES_OF_A_RUN + 1)) for found in positions.values())
    return _check_marks(made, completed)


def _check_marks(made: Fleet, completed: dict[tuple[str, str], int]) -> int:
    marks = [
        Mark(*line.split()[:3], *map(int, line.split()[3:])) for line in made.effects.read_text().splitlines()
    ]  # type: ignore[call-arg, arg-type] - as written
    effects: dict[tuple[str, str], list[Mark]] = {}
    for mark in marks:
        key = (mark.run_id, mark.step)
        # One machine, one clock: a body that began after its step was recorded is one that ran again.
        assert mark.kind != "began" or mark.at_ms <= completed[key], f"{mark} after it was recorded"
        if mark.kind == "effect":
            effects.setdefault(key, []).append(mark)
    assert effects.keys() == completed.keys(), "an acknowledged effect is lost"
    doubled = [found for found in effects.values() if len(found) > 1]
    for found in doubled:
        survivors = [mark for mark in found if mark.pid not in made.victims]
        assert len(survivors) <= 1, f"repeated without a reason: {found}"
    return len(doubled)


async def someone_at_work(made: Fleet, chance: random.Random) -> subprocess.Popen[bytes]:
    """A worker that holds runs."""
    pid = "split_part(worker, '-', 1)::integer"
    holders = f"select array_agg(distinct {pid}) from {{schema}}.runs where worker is not null"  # noqa: S608 - ours
    pids = await until(made, holders, bool)
    return chance.choice([worker for worker in made.workers if worker.pid in pids])
