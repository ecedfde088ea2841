"""`holdfast resume` of blocked runs, and `holdfast run --on-conflict`, as users meet them.

Rows 48, 51, and 54 to 56: durable functions whose code has changed are among them.
"""

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

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


# a durable function whose code changes between two processes (rows 55, 56, section 6)

ORDER = """
from holdfast import Context, workflow


def reserve(x: int) -> int:
    return x + 1


def charge(x: int) -> int:
    return x * 10


def ship(x: int) -> int:
    return x


def check(x: int) -> int:
    return x


@workflow
async def order(ctx: Context, x: int) -> int:
    held = await ctx.step(reserve, x)
    ctx.set("held", held)
    paid = await ctx.step(charge, held)
    await ctx.wait_signal("packed")
    return await ctx.step(ship, paid)
"""
CHANGED = ORDER.replace("    paid =", "    await ctx.step(check, held)\n    paid =")
MENDED = ORDER.replace(
    "    paid =", "    if ctx.patched('check'):\n        await ctx.step(check, held)\n    paid ="
).replace("return await ctx.step(ship, paid)", "return await ctx.step(ship, paid) + 1")
EXPECTED = "expected step charge#1, and found step check#1"


def deployed(folder: Path, code: str) -> None:
    """Put this code in the place of what was there, whatever Python has kept of it."""
    (folder / "orders.py").write_text(code)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run whose code was changed while it waited, before a worker went on with it; to look at only."""
    folder = tmp_path_factory.mktemp("diverged")
    deployed(folder, ORDER)
    with going_on(folder, "run", "orders:order", "--input", "1", "--id", "o-1", *DB) as process:
        wait_until(lambda: (folder / "runs.db").exists() and shown(folder)["status"] == "suspended")
        process.terminate()
        process.wait(DEADLINE_S)
    deployed(folder, CHANGED)
    assert holdfast(folder, "signal", "o-1", "packed", *DB).returncode == 0
    with going_on(folder, "worker", "orders", *DB) as worker:
        wait_until(lambda: shown(folder)["status"] == "blocked")
        worker.terminate()
        assert worker.wait(DEADLINE_S) == 0
    return folder


@pytest.fixture
def diverging(diverged: Path, tmp_path: Path) -> Path:
    """A copy of that."""
    return Path(shutil.copytree(diverged, tmp_path / "copy"))


def shown(folder: Path) -> Any:  # noqa: ANN401 - JSON
    result = holdfast(folder, "show", "o-1", *DB, "--json")
    return json.loads(result.stdout) if result.returncode == 0 else {"status": result.stderr}


def test_a_run_whose_code_was_changed_is_shown_with_what_was_expected_and_found(diverged: Path) -> None:
    document = shown(diverged)
    assert document["failure"]["type"] == "definition_changed"
    assert document["failure"]["step"] == "order"
    assert EXPECTED in document["failure"]["message"]
    main = document["branches"]["main"]
    assert [(each["key"], each["output"]) for each in main["operations"]] == [
        ("reserve#1", 2),
        ("charge#1", 20),
        ("packed#1", None),
    ]
    assert main["variables"] == {"held": 2}
    assert document["waiting"] == []
    assert document["journal"][-1]["kind"] == "RunBlocked"
    text = holdfast(diverged, "show", "o-1", *DB).stdout
    assert re.search(rf"failure +definition_changed in step 'order': .*{EXPECTED}", text)
    assert re.search(
        r"\n main +active +order +1 .*\n   reserve#1 .*\n   charge#1 +completed +1 +step, 20 ", text
    )
    assert re.search(rf"RunBlocked +main +order +definition_changed: .*{EXPECTED}", text)
    assert "blocked: it cannot go on before that is mended" in text


def test_a_run_whose_code_was_changed_says_who_must_act(diverged: Path) -> None:
    text = holdfast(diverged, "explain", "o-1", *DB).stdout
    assert text.startswith("blocked: step 'order' of branch 'main' expected step charge#1")
    for word in ("deploy code that fits", "ctx.patched", "holdfast resume"):
        assert word in text
    assert [run["status"] for run in json.loads(holdfast(diverged, "list", *DB, "--json").stdout)] == [
        "blocked"
    ]


def test_code_that_still_diverges_is_told_again(diverging: Path) -> None:
    result = holdfast(diverging, "resume", "o-1", "orders", *DB)
    assert (result.returncode, result.stdout) == (1, "")
    assert "run o-1 blocked" in result.stderr
    assert "type:    definition_changed" in result.stderr
    assert EXPECTED in result.stderr
    assert "Traceback" not in result.stderr
    as_json = holdfast(diverging, "resume", "o-1", "orders", *DB, "--json")
    failure = json.loads(as_json.stdout)["failure"]
    assert (as_json.returncode, failure["type"]) == (1, "definition_changed")
    assert EXPECTED in failure["message"]


@pytest.mark.parametrize(("code", "output"), [(ORDER, "20"), (MENDED, "21")], ids=["as it was", "patched"])
def test_a_run_goes_on_with_code_that_fits_what_is_recorded(diverging: Path, code: str, output: str) -> None:
    deployed(diverging, code)
    resumed = holdfast(diverging, "resume", "o-1", "orders", *DB)
    assert (resumed.returncode, resumed.stdout) == (0, f"{output}\n"), resumed.stderr
    document = shown(diverging)
    assert (document["status"], document["failure"], document["output"]) == ("completed", None, int(output))
    kinds = [each["kind"] for each in document["journal"]]
    assert kinds.count("RunBlocked") == 1
    assert kinds.count("OperationCompleted") == 4, "nothing that was recorded was done again"


# children of what is run from the command line (row 56)

PARENTS = """
from holdfast import Context, Flow, task, workflow


@workflow
async def ships(ctx: Context, x: int) -> int:
    return x + await ctx.wait_signal("truck")


@workflow
async def orders(ctx: Context, x: int) -> int:
    return await ctx.child(ships, x)


@workflow
async def doubles(ctx: Context, x: int) -> int:
    return await ctx.child("double", x)


@workflow
async def changes(ctx: Context, x: int) -> int:
    global calls
    calls += 1
    if calls > 1:
        await ctx.sleep(1, name="other")
    await ctx.sleep(1.5)
    return x


calls = 0
double = Flow("double").then(lambda x: 2 * x, name="twice")
broken = Flow("broken").then(lambda x: x)
"""


def test_children_are_driven_with_the_run_that_starts_them(tmp_path: Path) -> None:
    (tmp_path / "parents.py").write_text(PARENTS)
    for place in ((), DB):
        result = holdfast(tmp_path, "run", "parents:doubles", "--input", "4", *place)
        assert (result.returncode, result.stdout) == (0, "8\n"), result.stderr


def test_what_a_child_waits_for_is_told_to_whoever_waits_for_its_parent(tmp_path: Path) -> None:
    (tmp_path / "parents.py").write_text(PARENTS)
    with going_on(tmp_path, "run", "parents:orders", "--input", "4", "--id", "o-1", *DB) as process:
        wait_until(lambda: "waits for signal 'truck'" in (tmp_path / "stderr-run").read_text())
        told = re.search(
            r"run (o-1/ships#1-\w+): branch 'main' at step 'ships' waits",
            stderr := (tmp_path / "stderr-run").read_text(),
        )
        assert told is not None, stderr
        assert holdfast(tmp_path, "signal", told[1], "truck", "3", *DB).returncode == 0
        assert process.communicate(timeout=DEADLINE_S)[0] == "7\n"


def test_a_child_in_memory_that_waits_for_others_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "parents.py").write_text(PARENTS)
    result = holdfast(tmp_path, "run", "parents:orders", "--input", "4")
    assert (result.returncode, result.stdout) == (2, "")
    assert "/ships#1-" in result.stderr
    assert "waits for signal 'truck'" in result.stderr
    assert "give --db" in result.stderr


def test_code_that_does_not_do_the_same_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "parents.py").write_text(PARENTS)
    result = holdfast(tmp_path, "run", "parents:changes", "--input", "4", "--json")
    assert result.returncode == 1
    failure = json.loads(result.stdout)["failure"]
    assert failure["type"] == "definition_changed"
    assert "expected sleep sleep#1, and found sleep other#1" in failure["message"]
