"""Starts, watches and kills workers: what a process outside of them can do.

A SQLite file has one worker process at a time, its owner. Every other process is a client and works
through the same file: it starts runs and reads about them, whether a worker is alive or not.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from examples.orders.audit import Strike
from examples.orders.world import FILE_VARIABLE, PACE_VARIABLE, World
from holdfast import Engine, RunSummary

REPOSITORY = Path(__file__).resolve().parents[2]
OVER = frozenset({"completed", "failed", "cancelled"})
PAGE = 500
LOOK_EVERY_S = 0.01
STOP_S = 20


class WorkerEndedError(Exception):
    """A worker ended that was not killed, or ended badly."""


def engine_file(directory: Path) -> Path:
    """Where Holdfast records the runs."""
    return directory / "orders.db"


def world_file(directory: Path) -> Path:
    """Where the pretended outside keeps its books."""
    return directory / "world.db"


def engine_url(directory: Path) -> str:
    """The URL of `engine_file`."""
    return f"sqlite:///{engine_file(directory)}"


def start_worker(directory: Path, *, pace: float = 1.0) -> subprocess.Popen[bytes]:
    """Start a worker process on the files in `directory`; the caller ends it.

    Args:
        directory: Absolute.
        pace: How much slower than usual the outside answers, as a factor.
    """
    environment = {
        "HOLDFAST_URL": engine_url(directory),
        FILE_VARIABLE: str(world_file(directory)),
        PACE_VARIABLE: str(pace),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "examples.orders.worker"],
        cwd=REPOSITORY,
        env=os.environ | environment,
    )


def kill(worker: subprocess.Popen[bytes], engine: Engine, world: World) -> Strike:
    """Kill a worker with SIGKILL, which it cannot notice or refuse; note what was recorded."""
    worker.kill()
    worker.wait()
    positions = {run.id: run.position for run in list_runs(engine)}
    return Strike(worker.pid, world.last_call(), positions)


def stop(worker: subprocess.Popen[bytes]) -> None:
    """Ask a worker to end, and wait until it has.

    Raises:
        WorkerEndedError: It ended badly.
        subprocess.TimeoutExpired: It has not ended.
    """
    worker.terminate()
    if worker.wait(STOP_S) != 0:
        raise WorkerEndedError(f"worker {worker.pid} ended with status {worker.returncode}")


def list_runs(engine: Engine) -> list[RunSummary]:
    """All runs, page by page."""
    runs: list[RunSummary] = []
    while page := engine.list(limit=PAGE, after=runs[-1].id if runs else None):
        runs += page
    return runs


def wait_for_entries(
    engine: Engine, worker: subprocess.Popen[bytes], entries: int, *, timeout_s: float
) -> None:
    """Wait until the journals of all runs together have so many entries.

    Raises:
        WorkerEndedError: The worker is not there any more.
        TimeoutError: They had fewer until the end.
    """
    deadline_s = time.monotonic() + timeout_s
    while (found := sum(run.position for run in list_runs(engine))) < entries:
        _look_again(worker, deadline_s, f"{found} of {entries} entries are recorded")


def wait_until_over(engine: Engine, worker: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """Wait until every run has ended, well or badly.

    Raises:
        WorkerEndedError: The worker is not there any more.
        TimeoutError: Some had not ended.
    """
    deadline_s = time.monotonic() + timeout_s
    while open_runs := [run.id for run in list_runs(engine) if run.status not in OVER]:
        _look_again(worker, deadline_s, f"{len(open_runs)} runs are open, as {open_runs[0]}")


def _look_again(worker: subprocess.Popen[bytes], deadline_s: float, seen: str) -> None:
    """Pause before the next look, unless there is nothing to wait for any more."""
    if worker.poll() is not None:
        raise WorkerEndedError(f"worker {worker.pid} ended with status {worker.returncode}; {seen}")
    if time.monotonic() > deadline_s:
        raise TimeoutError(seen)
    time.sleep(LOOK_EVERY_S)
