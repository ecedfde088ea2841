"""`holdfast run` as a user meets it: in processes of its own, in an empty directory."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

DEADLINE_S = 30.0
DB = ("--db", "sqlite:///runs.db")

FLOWS = """
import os
import subprocess
import sys
import time
from pathlib import Path

from holdfast import Flow, Retry, WorkflowError, task

here = Path(__file__).parent


def called(name):
    with (here / "calls").open("a") as file:
        file.write(f"{name}\\n")


@task
def double(x: int) -> int:
    called("double")
    print("printed by a task")
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
    return 2 * x


@task
def patient(x: int) -> int:
    called("patient")
    while not (here / "go").exists():
        time.sleep(0.01)
    return x + 1


@task
def declined(x):
    raise WorkflowError("card \\x1b[31m declined", type="card", details={"limit": 10})


def echo(x):
    return x


def lies(x) -> int:
    return "text"


order = Flow("order").then(double)
slow = Flow("slow").then(double).then(patient).then(double, name="last")
bad = Flow("bad").then(echo).then(declined)
mirror = Flow("mirror").then(echo)
liar = Flow("liar").then(lies)
nameless = Flow("nameless").then(lambda x: x)
half = Flow("half").then(echo).fork()
number = 7
"""

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def environment(**extra: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in {"HOLDFAST_URL", "COLUMNS"}}
    return ours | {"PYTHONUTF8": "1"} | extra


def holdfast(folder: Path, *args: str, stdin: str | None = None, **extra: str) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli", *args],
        cwd=folder,
        env=environment(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextmanager
def started(folder: Path, *args: str) -> Generator[subprocess.Popen[bytes]]:
    """A command that goes on; its stderr is in the file `stderr`."""
    with (
        (folder / "stderr").open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "holdfast.cli", *args],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().split() if file.exists() else []


def refused(result: Result, *words: str) -> None:
    """The command was used wrongly, says so in our words, and has printed nothing else."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_only_the_result_is_on_stdout(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:order", "--input", "21")
    assert result.returncode == 0
    assert result.stdout == "42\n"
    assert "printed by a task" in result.stderr
    assert "printed by a child" in result.stderr


def test_a_run_without_a_database_leaves_no_file(folder: Path) -> None:
    holdfast(folder, "run", "flows:mirror")
    assert {file.name for file in folder.iterdir()} - {"__pycache__"} == {"flows.py"}


def test_json_of_a_completed_run_is_its_id_status_and_output(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:order", "--input", "21", "--json", "--id", "o-1", *DB)
    assert result.returncode == 0
    assert json.loads(result.stdout) == {"id": "o-1", "status": "completed", "output": 42}


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"name": "Grüße", "list": [1, 2.5, True, None], "nested": {"": []}},
        123456789012345678901234567890,
        "\ud800 alone",
        "[bold] \x1b[31m \u0085",
    ],
    ids=["null", "object", "big", "surrogate", "controls"],
)
def test_a_value_comes_back_as_it_was_given(folder: Path, value: object) -> None:
    result = holdfast(folder, "run", "flows:mirror", "--input", json.dumps(value))
    assert result.returncode == 0
    assert json.loads(result.stdout) == value


def test_without_input_the_first_step_gets_null(folder: Path) -> None:
    assert holdfast(folder, "run", "flows:mirror").stdout == "null\n"


def test_input_can_be_read_from_a_file(folder: Path) -> None:
    (folder / "order.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    result = holdfast(folder, "run", "flows:mirror", "--input", "@order.json")
    assert json.loads(result.stdout) == {"a": "é"}


def test_input_can_be_read_from_stdin(folder: Path) -> None:
    assert holdfast(folder, "run", "flows:order", "--input", "@-", stdin="4").stdout == "8\n"


def test_a_failed_run_says_where_and_why(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:bad", "--id", "b 1", *DB)
    assert result.returncode == 1
    assert result.stdout == ""
    for fact in ["b 1 failed", "card", "declined", "holdfast show 'b 1' --db sqlite:///runs.db"]:
        assert fact in result.stderr


def test_a_message_cannot_steer_the_terminal(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:bad")
    assert "\x1b" not in result.stderr
    assert r"card \x1b[31m declined" in result.stderr


def test_json_of_a_failed_run_has_its_failure(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:bad", "--json", "--id", "b-1", *DB)
    assert result.returncode == 1
    document = json.loads(result.stdout)
    failure = document.pop("failure")
    assert document == {"id": "b-1", "status": "failed"}
    assert (failure["type"], failure["step"]) == ("card", "declined")
    assert failure["message"] == "card \x1b[31m declined"
    assert failure["details"] == {"limit": 10}
    assert failure["cause"] is None


def test_a_run_that_failed_in_memory_shows_the_users_traceback(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:bad")
    assert result.returncode == 1
    assert "in declined" in result.stderr
    assert "holdfast show" not in result.stderr


def test_the_database_can_come_from_the_environment(folder: Path) -> None:
    holdfast(folder, "run", "flows:mirror", "--id", "m-1", HOLDFAST_URL="sqlite:///env.db")
    assert (folder / "env.db").exists()


def test_the_same_command_again_gives_the_recorded_result(folder: Path) -> None:
    command = ("run", "flows:order", "--input", "21", "--id", "o-1", *DB)
    assert holdfast(folder, *command).stdout == holdfast(folder, *command).stdout == "42\n"
    assert calls(folder) == ["double"]


def test_an_id_of_a_run_with_another_input_is_refused(folder: Path) -> None:
    holdfast(folder, "run", "flows:order", "--input", "1", "--id", "o-1", *DB)
    result = holdfast(folder, "run", "flows:order", "--input", "2", "--id", "o-1", *DB)
    refused(result, "o-1", "another input")


def test_a_killed_run_is_finished_by_the_same_command(folder: Path) -> None:
    command = ("run", "flows:slow", "--input", "1", "--id", "s-1", *DB)
    with started(folder, *command) as process:
        wait_until(lambda: "patient" in calls(folder))
        process.send_signal(signal.SIGKILL)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    (folder / "go").touch()
    result = holdfast(folder, *command)
    assert result.returncode == 0
    assert result.stdout == "6\n"
    # The step that was under way runs again, the completed one before it does not.
    assert calls(folder) == ["double", "patient", "patient", "double"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_its_step_and_can_be_gone_on_with(
    folder: Path, number: signal.Signals
) -> None:
    command = ("run", "flows:slow", "--input", "1", "--id", "s-1", *DB)
    with started(folder, *command) as process:
        wait_until(lambda: "patient" in calls(folder))
        process.send_signal(number)
        wait_until(lambda: "steps that are under way" in (folder / "stderr").read_text())
        (folder / "go").touch()
        assert process.wait(DEADLINE_S) == 128 + number
    assert "the same command with --id s-1" in (folder / "stderr").read_text()
    assert holdfast(folder, *command).stdout == "6\n"
    assert calls(folder) == ["double", "patient", "double"]


def test_a_run_with_a_damaged_journal_is_not_waited_for(folder: Path) -> None:
    command = ("run", "flows:slow", "--input", "1", "--id", "s-1", *DB)
    with started(folder, *command) as process:
        wait_until(lambda: "patient" in calls(folder))
        process.kill()
        process.wait(DEADLINE_S)
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        connection.execute("update journal set entry = x'00' where position = 2")
        connection.commit()
    result = holdfast(folder, *command)
    assert (result.returncode, result.stdout) == (1, "")
    assert "run s-1 blocked" in result.stderr
    assert "entry 2 of run 's-1'" in result.stderr
    assert "Traceback" not in result.stderr
    shown = holdfast(folder, "show", "s-1", *DB)
    assert shown.returncode == 0
    assert "status    blocked" in shown.stdout
    assert "entry 2 of run 's-1'" in shown.stdout


def test_a_run_that_no_worker_knows_says_what_it_waits_for(folder: Path) -> None:
    holdfast(folder, "run", "flows:mirror", *DB)
    (folder / "other.py").write_text("from holdfast import Flow\nother = Flow('other').then(print)\n")
    with started(folder, "worker", "other", *DB):
        wait_until(lambda: "ready" in (folder / "stderr").read_text())
        inner = folder / "client"
        inner.mkdir()
        (inner / "flows.py").write_text(FLOWS)
        with started(inner, "run", "flows:mirror", "--db", "sqlite:///../runs.db") as process:
            wait_until(lambda: "no live worker knows workflow" in (inner / "stderr").read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


def test_an_output_that_its_own_annotation_refuses_is_printed_as_recorded(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:liar", *DB)
    assert (result.returncode, result.stdout) == (0, '"text"\n')


def test_a_file_is_as_good_as_a_module(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "parts.py").write_text("def triple(x: int) -> int:\n    return 3 * x\n")
    (folder / "deep" / "my-flow.py").write_text(
        "from holdfast import Flow\nfrom parts import triple\nflow = Flow('t').then(triple)\n"
    )
    assert holdfast(folder, "run", "deep/my-flow.py:flow", "--input", "5").stdout == "15\n"


def test_a_module_may_be_in_a_package(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "flows.py").write_text("from holdfast import Flow\nflow = Flow('t').then(abs)\n")
    assert holdfast(folder, "run", "shop.flows:flow", "--input", "-5").stdout == "5\n"


def test_a_file_called_like_a_loaded_module_does_not_take_its_place(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "json.py").write_text(
        "from holdfast import Flow\nimport json\nflow = Flow('t').then(lambda x: json.dumps(x), name='text')\n"
    )
    assert holdfast(folder, "run", "inner/json.py:flow", "--input", "[1]").stdout == '"[1]"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n  b: 2}', ["line 2, column 3"]),
        ("", ["line 1, column 1"]),
        ("'x'", ["line 1, column 1"]),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', ['"c"', "twice"]),
        ('{"a": NaN}', ["NaN"]),
        ("[-Infinity]", ["-Infinity"]),
        ("1e999", ["inf"]),
        ("[" * 100_000, ["not JSON"]),
        ("9" * 5_000, ["not JSON"]),
        ("@nothing.json", ["nothing.json", "No such file"]),
        ("@", ["''", "cannot be read"]),
        ("@latin.json", ["UTF-8"]),
        ("@bad.json", ["bad.json", "line 3, column 1"]),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_input_that_is_not_strict_json_is_refused(folder: Path, text: str, words: list[str]) -> None:
    (folder / "latin.json").write_bytes(b'"\xe9"')
    (folder / "bad.json").write_text("{\n\n")
    refused(holdfast(folder, "run", "flows:mirror", "--input", text), *words)


def test_input_that_does_not_fit_the_first_step_is_refused(folder: Path) -> None:
    result = holdfast(folder, "run", "flows:order", "--input", '"many"')
    refused(result, "order", "double", "Expected `int`")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("flows", ["which workflow", "flows:order", "flows:mirror"]),
        ("flows:", ["which workflow", "flows:order"]),
        ("flows:ordr", ["'ordr'", "flows:order", "flows:slow"]),
        ("flows:number", ["is a int", "flows:order"]),
        ("flows:double", ["is a Task", "flows:order"]),
        ("flows:half", ["is a Fork", "flows:order"]),
        ("empty:flow", ["'flow'", "no Flow or Workflow at all"]),
        ("absent:flow", ["no module 'absent'"]),
        ("flows.absent:flow", ["no module 'flows.absent'"]),
        ("absent.py:flow", ["absent.py"]),
        ("no/where.py:flow", ["no/where.py"]),
        ("./flows:order", ["./flows"]),
        (":order", ["''", "MODULE:WORKFLOW"]),
        ("two words:flow", ["'two words'"]),
        ("..flows:order", ["'..flows'"]),
    ],
)
def test_a_target_that_is_no_workflow_is_refused(folder: Path, target: str, words: list[str]) -> None:
    (folder / "empty.py").touch()
    refused(holdfast(folder, "run", target), *words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\nraise ValueError('out of\\nreach')", ["ValueError: out of\nreach", "line 2"]),
        ("import nothing_like_it", ["No module named 'nothing_like_it'", "line 1"]),
        ("def f(:\n    pass", ["SyntaxError", "line 1"]),
        ("import sys\nsys.exit('early')", ["SystemExit: early", "line 2"]),
        ("import holdfast\nholdfast.task(timeout=-1)", ["UsageError: timeout -1", "line 2"]),
    ],
    ids=["raises", "imports", "syntax", "exits", "ours"],
)
def test_a_module_that_cannot_be_imported_is_shown_with_its_place(
    folder: Path, source: str, words: list[str]
) -> None:
    (folder / "broken.py").write_text(source)
    refused(holdfast(folder, "run", "broken:flow"), str(folder / "broken.py"), *words)


def test_a_file_that_cannot_be_imported_is_shown_with_its_place(folder: Path) -> None:
    (folder / "broken.py").write_text("raise LookupError('here')")
    refused(holdfast(folder, "run", "broken.py:flow"), str(folder / "broken.py"), "LookupError: here")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--db", "mysql://x"], ["'mysql://x'"]),
        (["--db", "runs.db"], ["'runs.db'", "sqlite:///"]),
        (["--db", ""], ["--db"]),
        (["--db", "sqlite:///no/dir.db"], ["no/dir.db", "cannot be opened"]),
        (["--db", "sqlite:///flows.py"], ["flows.py", "no SQLite database"]),
        (["--id", ""], ["run id"]),
        (["--id", "a\tb"], ["run id"]),
        (["--id", "x" * 256], ["255 bytes"]),
        (["--unknown"], ["--unknown"]),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "",
)
def test_an_option_that_cannot_work_is_refused(folder: Path, args: list[str], words: list[str]) -> None:
    refused(holdfast(folder, "run", "flows:mirror", *args), *words)


def test_a_flow_that_cannot_be_built_lists_its_problems(folder: Path) -> None:
    refused(holdfast(folder, "run", "flows:nameless", *DB), "nameless", "lambda")
    assert not (folder / "runs.db").exists()


def test_without_arguments_the_help_is_shown(folder: Path) -> None:
    result = holdfast(folder)
    shown = result.stdout + result.stderr
    names = ["run", "resume", "worker", "list", "show", "explain", "signal", "pause", "unpause", "cancel"]
    assert all(f" {name} " in shown for name in [*names, "retry", "delete", "db"])


def test_the_version_is_the_installed_one(folder: Path) -> None:
    result = holdfast(folder, "--version")
    assert result.returncode == 0
    assert result.stdout.startswith("holdfast 0.")


def test_importing_the_library_does_not_import_the_command(folder: Path) -> None:
    code = "import sys, holdfast; print({'typer', 'rich', 'holdfast.cli'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    assert result.stdout.strip() == b"set()"
