"""`holdfast worker` as a user meets it, with clients in other processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEADLINE_S = 30.0
DB = ("--db", "sqlite:///runs.db")

FLOWS = """
import os
import time
from pathlib import Path

from holdfast import Flow, task

here = Path(__file__).parent


def called(name):
    with (here / "calls").open("a") as file:
        file.write(f"{name}\\n")


def first(x: int) -> int:
    called("first")
    print("printed by a task", flush=True)
    return x + 1


def patient(x: int) -> int:
    called("patient")
    while not (here / "go").exists():
        time.sleep(0.01)
    return x + 1


def last(x: int) -> int:
    called("last")
    return x + 1


def who(x) -> int:
    return os.getpid()


steps = Flow("steps").then(first).then(patient).then(last)
driver = Flow("driver").then(who)
alias = driver
"""

Result = subprocess.CompletedProcess[str]


class Worker:
    """A worker process; what it prints is in files."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
        self.process = process
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"HOLDFAST_URL", "COLUMNS"}}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "holdfast.cli", *args]


def holdfast(folder: Path, *args: str) -> Result:
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@contextmanager
def working(folder: Path, *args: str, name: str = "worker") -> Generator[Worker]:
    """A worker that is ready."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        starting = command("worker", *(args or ("flows",)), *DB)
        with subprocess.Popen(starting, cwd=folder, env=environment(), stdout=out, stderr=err) as process:
            try:
                worker = Worker(process, folder, name)
                wait_until(lambda: "ready" in worker.stdout + worker.stderr or process.poll() is not None)
                assert process.poll() is None, worker.stderr
                yield worker
            finally:
                process.kill()


@contextmanager
def waiting_client(folder: Path, *args: str) -> Generator[subprocess.Popen[str]]:
    """A client of a worker, whose result can be read once the run is over."""
    starting = command("run", *args, *DB)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        starting, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().split() if file.exists() else []


def refused(result: Result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_ready_worker_names_its_workflows_and_its_database(folder: Path) -> None:
    with working(folder) as worker:
        (ready,) = worker.stderr.splitlines()
        assert all(fact in ready for fact in ["ready", "driver, steps", "sqlite:///runs.db"])
        assert worker.stop() == 0


def test_a_run_of_a_client_is_driven_by_the_worker(folder: Path) -> None:
    with working(folder) as worker:
        result = holdfast(folder, "run", "flows:driver", *DB)
        assert result.returncode == 0
        assert int(result.stdout) == worker.process.pid
        assert "another process owns sqlite:///runs.db" in result.stderr


def test_runs_can_be_looked_at_while_the_worker_drives_them(folder: Path) -> None:
    with (
        working(folder) as worker,
        waiting_client(folder, "flows:steps", "--input", "1", "--id", "s-1") as client,
    ):
        wait_until(lambda: "patient" in calls(folder))
        assert "s-1" in holdfast(folder, "list", *DB, "--status", "running").stdout
        shown = holdfast(folder, "show", "s-1", *DB)
        assert "drives it" in shown.stdout
        assert shown.returncode == 0
        (folder / "go").touch()
        assert client.communicate(timeout=DEADLINE_S)[0] == "4\n"
        assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_finishes_its_steps_and_leaves_the_rest_to_the_next(
    folder: Path, number: signal.Signals
) -> None:
    with waiting_client(folder, "flows:steps", "--input", "1", "--id", "s-1") as client:
        # Without a worker the client drives; it is killed, so that a worker takes the run over.
        wait_until(lambda: "patient" in calls(folder))
        client.kill()
    with working(folder) as worker:
        wait_until(lambda: calls(folder).count("patient") == 2)
        worker.process.send_signal(number)
        wait_until(lambda: "steps that are under way" in worker.stderr)
        (folder / "go").touch()
        assert worker.process.wait(DEADLINE_S) == 0
        assert number.name in worker.stderr
    assert calls(folder) == ["first", "patient", "patient"]
    with working(folder, name="next") as worker:
        wait_until(lambda: "last" in calls(folder))
        result = holdfast(folder, "run", "flows:steps", "--input", "1", "--id", "s-1", *DB)
        assert (result.returncode, result.stdout) == (0, "4\n")
        assert worker.stop() == 0
    assert calls(folder) == ["first", "patient", "patient", "last"]


def test_a_client_inherits_the_file_of_a_worker_that_was_killed_and_drives_its_run(folder: Path) -> None:
    with (
        working(folder) as worker,
        waiting_client(folder, "flows:steps", "--input", "1", "--id", "s-1") as client,
    ):
        wait_until(lambda: "patient" in calls(folder))
        worker.process.kill()
        worker.process.wait(DEADLINE_S)
        (folder / "go").touch()
        assert client.communicate(timeout=DEADLINE_S)[0] == "4\n"
    assert calls(folder) == ["first", "patient", "patient", "last"]


def test_a_second_signal_ends_a_draining_worker_at_once(folder: Path) -> None:
    with (
        working(folder) as worker,
        waiting_client(folder, "flows:steps", "--input", "1", "--id", "s-1"),
    ):
        wait_until(lambda: "patient" in calls(folder))
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "steps that are under way" in worker.stderr)
        assert worker.stop() == -signal.SIGTERM


def test_a_file_has_one_worker(folder: Path) -> None:
    with working(folder) as worker:
        result = holdfast(folder, "worker", "flows", *DB)
        refused(result, "runs.db", f"process {worker.process.pid}")


def test_json_of_a_worker_is_a_line_when_ready_and_one_when_stopped(folder: Path) -> None:
    with working(folder, "flows", "--json") as worker:
        assert holdfast(folder, "run", "flows:driver", *DB).returncode == 0
        (folder / "go").touch()
        assert holdfast(folder, "run", "flows:steps", "--input", "1", *DB).stdout == "4\n"
        assert worker.stop() == 0
        ready, stopped = map(json.loads, worker.stdout.splitlines())
        assert ready == {
            "event": "ready",
            "db": "sqlite:///runs.db",
            "workflows": ["driver", "steps"],
            "pid": worker.process.pid,
        }
        assert stopped == {"event": "stopped", "signal": "SIGTERM"}
        assert "printed by a task" in worker.stderr


SCENES = """
from holdfast import Context, workflow


@workflow
async def render(ctx: Context, x: int) -> int:
    return x + 1


@workflow(children=[render])
async def scene(ctx: Context) -> int:
    return await ctx.child(render, 1, queue="gpu")
"""


def test_a_worker_drives_the_queues_that_it_is_given(folder: Path) -> None:
    (folder / "scenes.py").write_text(SCENES)
    with working(folder, "scenes", name="one"), waiting_client(folder, "scenes:scene", "--id", "s") as client:
        wait_until(lambda: "suspended" in holdfast(folder, "show", "s", *DB).stdout)
        explained = holdfast(folder, "list", *DB, "--json").stdout
        (child,) = [run["id"] for run in json.loads(explained) if run["workflow"] == "render"]
        assert "for queue 'gpu'" in holdfast(folder, "explain", child, *DB).stdout
        client.kill()
    with working(folder, "scenes", "--queue", "default", "--queue", "gpu", name="both"):
        result = holdfast(folder, "run", "scenes:scene", *DB)
        assert (result.returncode, result.stdout.strip()) == (0, "2")
        wait_until(lambda: "completed" in holdfast(folder, "show", "s", *DB).stdout)
    refused(holdfast(folder, "worker", "scenes", *DB, "--queue", ""), "queue")


def test_a_worker_drives_the_workflows_of_all_its_modules(folder: Path) -> None:
    (folder / "more.py").write_text(
        "from flows import driver\nfrom holdfast import Flow\nm = Flow('more').then(abs)\n"
    )
    with working(folder, "flows", "more.py", "flows.py") as worker:
        assert "driver, more, steps" in worker.stderr
        assert holdfast(folder, "run", "more:m", "--input", "-3", *DB).stdout == "3\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["flows"], ["no database is named", "HOLDFAST_URL"]),
        (["flows", "--db", "memory://"], ["memory://"]),
        (["flows", "--db", "sqlite:///no/dir.db"], ["no/dir.db"]),
        (["flows", *DB, "--concurrency", "0"], ["concurrency 0"]),
        (["empty", *DB], ["'empty'", "no Flow or Workflow"]),
        (["flows", "absent", *DB], ["no module 'absent'"]),
        (["broken", *DB], ["broken.py", "line 1", "KeyError: 'x'"]),
        (["flows", "twin", *DB], ["'driver'", "another name"]),
        (["lambdas", *DB], ["lambda", "needs a name"]),
        ([*DB], ["MODULE"]),
    ],
    ids=lambda value: " ".join(value)[:32] if isinstance(value, list) else "",
)
def test_a_worker_that_could_drive_nothing_does_not_start(
    folder: Path, args: list[str], words: list[str]
) -> None:
    (folder / "empty.py").touch()
    (folder / "broken.py").write_text("{}['x']")
    (folder / "twin.py").write_text("from holdfast import Flow\nt = Flow('driver').then(abs)\n")
    (folder / "lambdas.py").write_text("from holdfast import Flow\nt = Flow('l').then(lambda x: x)\n")
    refused(holdfast(folder, "worker", *args), *words)
    assert not (folder / "runs.db").exists()
