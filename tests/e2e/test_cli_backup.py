"""`holdfast db backup` as a user meets it."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast import Engine, Flow
from tests.cli_processes import DEADLINE_S, Result, holdfast

DB = ("--db", "sqlite:///runs.db")


def refused(result: Result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@contextmanager
def owned(folder: Path) -> Generator[None]:
    """The file is owned by a worker, which has driven a run in it."""
    flow = Flow("order").then(abs)
    with Engine(f"sqlite:///{folder}/runs.db", workflows=[flow], worker=True) as engine:
        assert engine.start(flow, -1, id="o-1").result(DEADLINE_S) == 1
        yield


def test_a_copy_is_made_while_a_worker_owns_the_file(tmp_path: Path) -> None:
    with owned(tmp_path):
        made = holdfast(tmp_path, "db", "backup", "copy.db", *DB)
    assert (made.returncode, made.stdout) == (0, "")
    assert "copy.db has all runs of runs.db" in made.stderr
    listed = holdfast(tmp_path, "list", "--db", "sqlite:///copy.db", "--json")
    (run,) = json.loads(listed.stdout)
    assert (run["id"], run["status"]) == ("o-1", "completed")


def test_json_of_a_backup_is_its_file_and_size(tmp_path: Path) -> None:
    with owned(tmp_path):
        pass
    made = holdfast(tmp_path, "db", "backup", "copy.db", *DB, "--json")
    assert made.stderr == ""
    assert json.loads(made.stdout) == {"file": "copy.db", "bytes": (tmp_path / "copy.db").stat().st_size}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["there", *DB], ["there is there already"]),
        (["no/copy.db", *DB], ["no/copy.db cannot be opened"]),
        (["copy.db", "--db", "sqlite:///there"], ["there", "no SQLite database"]),
        (["copy.db", "--db", "postgresql://ann:secret@localhost/orders"], ["pg_dump"]),
        (["copy.db", "--db", "orders.db"], ["'orders.db' is no URL"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_copy_that_cannot_be_made_leaves_nothing(tmp_path: Path, args: list[str], words: list[str]) -> None:
    with owned(tmp_path):
        pass
    (tmp_path / "there").write_text("of someone else, and longer than the head of a database" * 9)
    before = (tmp_path / "there").read_bytes()
    result = holdfast(tmp_path, "db", "backup", *args)
    refused(result, *words)
    assert "secret" not in result.stderr
    assert (tmp_path / "there").read_bytes() == before
    assert not (tmp_path / "copy.db").exists()
    assert list(tmp_path.glob("*.partial")) == list(tmp_path.glob(".*.partial")) == []
