"""`holdfast resume` of blocked runs, and `holdfast run --on-conflict`, as users meet them (rows 48, 51, 54)."""

import json
import sqlite3
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from holdfast import Engine
from tests.cli_processes import DEADLINE_S, going_on, holdfast, wait_until

DB = ("--db", "sqlite:///runs.db")

FLOWS = """
from holdfast import Flow


def first(x: int) -> int:
    return x + 1


def last(x):
    return x


approval = Flow("approval").then(first).wait_for_signal("ok").then(last)
good = Flow("good").then(first)
"""


@contextmanager
def working(folder: Path) -> Generator[subprocess.Popen[str]]:
    with going_on(folder, "worker", "flows", *DB) as worker:
        wait_until(lambda: "ready" in (folder / "stderr-worker").read_text() or worker.poll() is not None)
        assert worker.poll() is None, (folder / "stderr-worker").read_text()
        yield worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a run that waits for a signal, and that nobody drives."""
    (tmp_path / "flows.py").write_text(FLOWS)
    with working(tmp_path) as worker, client(tmp_path) as engine:
        handle = engine.start("approval", 1, id="open")
        wait_until(lambda: handle.status().status == "suspended")
        worker.terminate()
        assert worker.wait(DEADLINE_S) == 0
    return tmp_path


def client(folder: Path) -> Engine:
    return Engine(f"sqlite:///{folder}/runs.db", worker=False)


def changed(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        connection.execute(statement, values)
        connection.commit()


def damaged(folder: Path) -> bytes:
    """Make the second entry unreadable, and return what it was."""
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        ((entry,),) = connection.execute("select entry from journal where position = 2").fetchall()
    changed(folder, "update journal set entry = x'00' where position = 2")
    assert isinstance(entry, bytes)
    return entry


def test_a_blocked_run_goes_on_when_it_was_mended(folder: Path) -> None:
    entry = damaged(folder)
    blocked = holdfast(folder, "resume", "open", "flows", *DB)
    assert (blocked.returncode, blocked.stdout) == (1, "")
    assert "run open blocked" in blocked.stderr
    assert "entry 2 of run 'open'" in blocked.stderr
    assert "Traceback" not in blocked.stderr
    assert holdfast(folder, "explain", "open", *DB).stdout.startswith("blocked: entry 2 of run 'open'")
    as_json = holdfast(folder, "resume", "open", "flows", *DB, "--json")
    assert as_json.returncode == 1
    document = json.loads(as_json.stdout)
    assert (document["status"], document["failure"]["type"]) == ("blocked", "blocked")

    changed(folder, "update journal set entry = ? where position = 2", entry)
    assert holdfast(folder, "signal", "open", "ok", '"yes"', *DB).returncode == 0
    resumed = holdfast(folder, "resume", "open", "flows", *DB)
    assert (resumed.returncode, resumed.stdout) == (0, '"yes"\n')


def test_a_quarantined_run_is_driven_when_somebody_resumes_it(folder: Path) -> None:
    changed(folder, "update runs set status = 'blocked', recoveries = 5, due_at_ms = null")
    assert "quarantined" in holdfast(folder, "explain", "open", *DB).stdout
    assert holdfast(folder, "signal", "open", "ok", "3", *DB).returncode == 0
    resumed = holdfast(folder, "resume", "open", "flows", *DB)
    assert (resumed.returncode, resumed.stdout) == (0, "3\n")


def test_a_blocked_run_beside_a_worker_is_told_as_blocked(folder: Path) -> None:
    damaged(folder)
    assert holdfast(folder, "resume", "open", "flows", *DB).returncode == 1
    with working(folder):
        result = holdfast(folder, "resume", "open", "flows", *DB)
        assert (result.returncode, result.stdout) == (1, "")
        assert "run open is not driven here" in result.stderr
        assert "run open blocked" in result.stderr


def test_a_blocked_run_cannot_be_paused(folder: Path) -> None:
    damaged(folder)
    assert holdfast(folder, "resume", "open", "flows", *DB).returncode == 1
    paused = holdfast(folder, "pause", "open", *DB)
    assert (paused.returncode, paused.stdout) == (1, "")
    assert "'open' is blocked" in paused.stderr


def test_a_blocked_run_can_be_cancelled(folder: Path) -> None:
    damaged(folder)
    assert holdfast(folder, "resume", "open", "flows", *DB).returncode == 1
    result = holdfast(folder, "cancel", "open", *DB, "--json")
    assert (result.returncode, result.stdout) == (0, '{"id":"open","status":"cancelled"}\n'), result.stderr


def test_resuming_without_a_module_waits_for_whoever_drives_the_run(folder: Path) -> None:
    with going_on(folder, "resume", "open", *DB) as waiting:
        wait_until(lambda: "waits for signal 'ok'" in (folder / "stderr-resume").read_text())
        assert "start a worker" in (folder / "stderr-resume").read_text()
        assert holdfast(folder, "signal", "open", "ok", "4", *DB).returncode == 0
        with working(folder):
            assert waiting.communicate(timeout=DEADLINE_S)[0] == "4\n"


@pytest.mark.parametrize("is_driven", [True, False], ids=["worker", "alone"])
def test_restart_puts_the_run_in_the_place_of_the_old_one(folder: Path, is_driven: bool) -> None:
    (folder / "more.py").write_text("from flows import good\n")
    arguments = ("run", "flows:good", "--input", "5", "--id", "open", *DB)
    for extra in [(), ("--on-conflict", "use_existing")]:
        refused = holdfast(folder, *arguments, *extra)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "another workflow" in refused.stderr
    if is_driven:
        with working(folder):
            result = holdfast(folder, *arguments, "--on-conflict", "restart")
    else:
        result = holdfast(folder, *arguments, "--on-conflict", "restart")
    assert (result.returncode, result.stdout) == (0, "6\n"), result.stderr
    with client(folder) as engine:
        assert engine.get("open").status().workflow == "good"


def test_fail_refuses_an_id_that_is_taken(folder: Path) -> None:
    arguments = ("run", "flows:good", "--input", "5", "--id", "g-1", *DB)
    assert holdfast(folder, *arguments, "--on-conflict", "fail").stdout == "6\n"
    again = holdfast(folder, *arguments, "--on-conflict", "fail")
    assert (again.returncode, again.stdout) == (2, "")
    assert "'g-1' exists already" in again.stderr
    assert holdfast(folder, *arguments, "--on-conflict", "use_existing").stdout == "6\n"
    with client(folder) as engine:
        assert engine.get("g-1").status().position == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--id", "g-1", "--on-conflict", "replace"], ["'replace'", "fail, use_existing, restart"]),
        (["--on-conflict", "restart"], ["without --id"]),
    ],
    ids=["unknown", "no id"],
)
def test_a_policy_that_means_nothing_is_refused(tmp_path: Path, args: list[str], words: list[str]) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    result = holdfast(tmp_path, "run", "flows:good", "--input", "5", *args, *DB)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words)
    assert not (tmp_path / "runs.db").exists()


def test_a_run_in_memory_that_waits_for_others_is_told_that_nobody_can_come(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    result = holdfast(tmp_path, "run", "flows:approval", "--input", "1")
    assert (result.returncode, result.stdout) == (2, "")
    assert "waits for signal 'ok'" in result.stderr
    assert "give --db" in result.stderr
