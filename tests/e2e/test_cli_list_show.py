"""`holdfast list` and `holdfast show` as a user meets them."""

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30.0
DB = ("--db", "sqlite:///runs.db")
LONG_ID = "order-" + "x" * 240

FLOWS = """
from holdfast import Flow, Retry, task


def inc(x: int) -> int:
    return x + 1


def total(parts: dict) -> int:
    return sum(parts.values())


@task
def breaks(x):
    raise ValueError("[bold]cannot\\x1b[31m do " + "much " * 40)


@task(retry=Retry(max_retries=1, base_delay="2h"))
def later(x):
    raise OSError("not yet")


order = Flow("order").then(inc).fork().branch(inc, name="a").branch(inc, name="b").join(total)
bad = Flow("bad").then(inc).then(breaks)
waits = Flow("waits").then(inc).then(later)
"""

Result = subprocess.CompletedProcess[str]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "holdfast.cli", *args]


def environment(**extra: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in {"HOLDFAST_URL", "COLUMNS"}}
    return ours | {"PYTHONUTF8": "1"} | extra


def holdfast(folder: Path, *args: str, **extra: str) -> Result:
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def refused(result: Result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def start_what_waits(folder: Path) -> None:
    """A run in a backoff of hours, whose process has ended."""
    starting = command("run", "flows:waits", "--input", "1", "--id", "waiting", *DB)
    with subprocess.Popen(starting, cwd=folder, env=environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + DEADLINE_S
        while '"suspended"' not in holdfast(folder, "show", "waiting", *DB, "--json").stdout:
            assert time.monotonic() < deadline, "it was never suspended"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three workflows: two completed, one failed, one that waits."""
    folder = tmp_path_factory.mktemp("looking")
    (folder / "flows.py").write_text(FLOWS)
    assert holdfast(folder, "run", "flows:order", "--input", "1", "--id", "first", *DB).returncode == 0
    assert holdfast(folder, "run", "flows:order", "--input", "2", "--id", LONG_ID, *DB).returncode == 0
    assert holdfast(folder, "run", "flows:bad", "--input", "1", "--id", "broken", *DB).returncode == 1
    start_what_waits(folder)
    return folder


def listed(folder: Path, *args: str) -> list[str]:
    result = holdfast(folder, "list", *DB, "--json", *args)
    assert result.returncode == 0, result.stderr
    return [run["id"] for run in json.loads(result.stdout)]


def shown(folder: Path, run_id: str, db: str = "runs.db") -> dict[str, Any]:
    result = holdfast(folder, "show", run_id, "--db", f"sqlite:///{db}", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def test_runs_are_listed_the_last_started_first(folder: Path) -> None:
    assert listed(folder) == ["waiting", "broken", LONG_ID, "first"]


def test_a_list_can_be_of_one_status(folder: Path) -> None:
    assert listed(folder, "--status", "failed") == ["broken"]


def test_a_list_can_be_of_one_workflow(folder: Path) -> None:
    assert listed(folder, "--workflow", "order") == [LONG_ID, "first"]


def test_a_page_goes_on_after_the_last_run_of_the_one_before(folder: Path) -> None:
    assert listed(folder, "--limit", "2") == ["waiting", "broken"]
    assert listed(folder, "--limit", "2", "--after", "broken") == [LONG_ID, "first"]


def test_a_full_page_says_how_to_go_on(folder: Path) -> None:
    assert "--after broken" in holdfast(folder, "list", *DB, "--limit", "2").stderr


def test_json_of_a_list_has_the_facts_of_each_run(folder: Path) -> None:
    result = holdfast(folder, "list", *DB, "--json", "--status", "failed")
    (run,) = json.loads(result.stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", run.pop("created_at"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", run.pop("updated_at"))
    assert run == {"id": "broken", "workflow": "bad", "status": "failed", "position": 3}


def test_a_piped_table_has_one_whole_line_for_each_run(folder: Path) -> None:
    result = holdfast(folder, "list", *DB)
    lines = [line for line in result.stdout.splitlines() if "completed" in line]
    assert [line.split()[:3] for line in lines] == [
        [LONG_ID, "order", "completed"],
        ["first", "order", "completed"],
    ]


def test_a_table_is_as_wide_as_it_is_told(folder: Path) -> None:
    result = holdfast(folder, "list", *DB, COLUMNS="80")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_empty_list_says_so_beside_stdout(folder: Path) -> None:
    result = holdfast(folder, "list", *DB, "--workflow", "unheard")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "no runs\n")
    assert listed(folder, "--workflow", "unheard") == []


def test_a_completed_run_is_shown_with_its_output_and_journal(folder: Path) -> None:
    result = holdfast(folder, "show", "first", *DB)
    assert result.returncode == 0
    for fact in ["first", "order", "completed", "output    6", "RunStarted", "BranchJoined", "1 -> inc"]:
        assert fact in result.stdout


def test_a_failed_run_is_shown_with_what_broke_it(folder: Path) -> None:
    result = holdfast(folder, "show", "broken", *DB)
    assert result.returncode == 0
    assert r"ValueError in step 'breaks': [bold]cannot\x1b[31m do" in result.stdout
    assert "in breaks" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_waiting_run_is_shown_with_what_it_waits_for(folder: Path) -> None:
    result = holdfast(folder, "show", "waiting", *DB)
    assert result.returncode == 0
    assert re.search(r"main +later +backoff +for attempt 2 after OSError.*Z", result.stdout)
    assert "one that knows 'waits' goes on with it" in result.stdout


def test_json_of_a_run_has_everything_with_values_decoded(folder: Path) -> None:
    document = shown(folder, "first")
    assert set(document) == {
        *("id", "workflow", "fingerprint", "status", "output", "failure", "branches", "waiting"),
        *("undelivered", "pause", "cancel_reason", "cancelled_by", "deadline"),
        *("position", "worker", "recoveries", "created_at", "updated_at", "journal"),
    }
    assert (document["status"], document["output"], document["failure"]) == ("completed", 6, None)
    assert list(document["branches"])[:3] == ["main", "a", "b"]
    journal = document["journal"]
    assert [entry["position"] for entry in journal] == list(range(1, len(journal) + 1))
    assert journal[0]["kind"] == "RunStarted"
    assert journal[0]["entry"]["input"] == 1
    assert journal[1]["entry"]["output"] == 2
    assert {arrival["branch"] for arrival in journal[1]["entry"]["arrivals"]} >= {"a", "b"}


def test_json_of_a_failed_run_has_its_failure(folder: Path) -> None:
    failure = shown(folder, "broken")["failure"]
    assert (failure["type"], failure["step"]) == ("ValueError", "breaks")
    assert failure["message"].startswith("[bold]cannot\x1b[31m")


def test_json_of_a_waiting_run_says_until_when(folder: Path) -> None:
    document = shown(folder, "waiting")
    assert document["status"] == "suspended"
    (waiting,) = document["waiting"]
    assert (waiting["branch"], waiting["step"], waiting["reason"]) == ("main", "later", "backoff")
    assert waiting["due_at"].endswith("Z")


def test_a_payload_of_an_unknown_codec_is_shown_encoded(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(folder / "runs.db")) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        (key,) = target.execute("select key from runs where id = 'first'").fetchone()
        where = (key, 2)
        query = "select entry from journal where run = ? and position = ?"
        (entry,) = target.execute(query, where).fetchone()
        assert b"json.1:2" in entry
        changed = entry.replace(b"json.1:2", b"json.9:2")
        target.execute("update journal set entry = ? where run = ? and position = ?", (changed, *where))
        target.commit()
    document = shown(tmp_path, "first", "copy.db")
    assert document["journal"][1]["entry"]["output"] == {"encoded": base64.b64encode(b"json.9:2").decode()}
    assert document["output"] == 6


def test_looking_makes_no_database(tmp_path: Path) -> None:
    refused(holdfast(tmp_path, "list", "--db", "sqlite:///absent.db"), "no database absent.db")
    refused(holdfast(tmp_path, "show", "first", "--db", f"sqlite:///{tmp_path}/absent.db"), "absent.db")
    refused(holdfast(tmp_path, "list", HOLDFAST_URL="sqlite:///absent.db"), "absent.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["no database is named", "HOLDFAST_URL"]),
        (["--db", ""], ["no database is named"]),
        (["--db", "memory://"], ["memory://"]),
        (["--db", "runs.db"], ["'runs.db'"]),
        (["--db", "sqlite:///flows.py"], ["flows.py", "no SQLite database"]),
        (["--db", "sqlite:///__pycache__"], ["no database __pycache__"]),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "",
)
def test_a_database_that_is_none_is_refused(folder: Path, args: list[str], words: list[str]) -> None:
    refused(holdfast(folder, "list", *args), *words)


def test_showing_needs_a_database_too(folder: Path) -> None:
    refused(holdfast(folder, "show", "first"), "no database is named", "HOLDFAST_URL")


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("create table notes (text)")
    refused(holdfast(tmp_path, "list", "--db", "sqlite:///other.db"), "other.db", "another program")


def test_an_unknown_run_is_refused(folder: Path) -> None:
    refused(holdfast(folder, "show", "nobody", *DB), "no run 'nobody'", "holdfast list")
    refused(holdfast(folder, "list", "--after", "nobody", *DB), "no run 'nobody'")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--status", "lost"], ["'lost'", "completed", "failed"]),
        (["--limit", "0"], ["--limit"]),
        (["--limit", "-5"], ["--limit"]),
        (["--limit", "many"], ["--limit"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_filter_that_cannot_match_is_refused(folder: Path, args: list[str], words: list[str]) -> None:
    refused(holdfast(folder, "list", *DB, *args), *words)


def test_a_reader_that_goes_away_is_no_error_of_ours(folder: Path) -> None:
    showing = f"{sys.executable} -m holdfast.cli show first --json {' '.join(DB)} | head -c 1"
    result = subprocess.run(
        ["sh", "-c", showing], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.stdout == "{"
    assert "Traceback" not in result.stderr
