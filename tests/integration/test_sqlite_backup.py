"""Backups of SQLite files: of one moment, whole or not there, beside a worker that goes on."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import FormatError, HoldfastError, StoreOpenError, UsageError
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.records import Append, Applied, NewRun
from holdfast.stores.sqlite import backup as backups
from holdfast.stores.sqlite.backup import backup
from holdfast.testing.contract.place import append, message, new_run


def at(path: Path, *, worker: bool = True) -> Store:
    return store_at(f"sqlite:///{path}", worker=worker, clock=SystemClock())


async def held(store: Store, count: int) -> list[int]:
    outcomes = await store.commit([new_run(f"run-{n}", worker="worker-me") for n in range(count)])
    return [outcome.key for outcome in outcomes if isinstance(outcome, Applied)]


def make(path: Path) -> None:
    """A closed database with a run."""

    async def run() -> None:
        store = at(path)
        await store.open()
        try:
            (key,) = await held(store, 1)
            await store.commit([append(key), message(key)])
        finally:
            await store.close()

    asyncio.run(run())


def check(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "partial" in path.name]


def test_the_copy_of_a_closed_database_opens_as_a_store(tmp_path: Path) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    make(source)
    size = backup(str(source), str(target))
    assert size == target.stat().st_size > 0
    assert leftovers(tmp_path) == []
    check(target)

    async def look() -> None:
        store = at(target)
        await store.open()
        try:
            record = await store.find_run("run-0")
            assert record is not None
            (stored,) = await store.load([record.key])
            assert [row.entry for row in stored.journal] == [b"started", b"next"]
            assert [row.id for row in stored.inbox] == ["m-1"]
            assert [run.id for run in (await store.claim("next", workflows=["order"], limit=9)).runs] == [
                "run-0"
            ]
        finally:
            await store.close()

    asyncio.run(look())


def test_a_backup_beside_an_owner_is_of_one_moment(tmp_path: Path) -> None:
    """Each group writes all runs at once, so a copy in which two differ has torn one apart."""
    source = tmp_path / "runs.db"

    async def main() -> None:
        store = at(source)
        await store.open()
        try:
            keys = await held(store, 50)
            done = threading.Event()

            def copy() -> int:
                try:
                    return [backup(str(source), f"{tmp_path}/{n}.db") for n in range(5)][-1]
                finally:
                    done.set()

            copying = asyncio.get_running_loop().run_in_executor(None, copy)
            position = 1
            while not done.is_set() or position < 10:
                group = [append(key, position=position, entries=(b"x" * 500,)) for key in keys]
                assert all(isinstance(outcome, Applied) for outcome in await store.commit(group))
                position += 1
            await copying
        finally:
            await store.close()

    asyncio.run(main())
    for n in range(5):
        copy = tmp_path / f"{n}.db"
        check(copy)
        connection = sqlite3.connect(copy)
        positions = connection.execute("select distinct position from runs").fetchall()
        assert len(positions) == 1
        entries = connection.execute("select run, count(*) from journal group by run").fetchall()
        assert {count for _, count in entries} == {positions[0][0]}
        connection.close()


def test_what_only_the_log_of_a_living_owner_holds_is_in_the_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"

    async def main() -> None:
        store = at(source)
        await store.open()
        try:
            (key,) = await held(store, 1)
            await store.commit([Append(key, 1, 1, (b"only in the log",), "running", None, "worker-me")])
            backup(str(source), str(target))
        finally:
            await store.close()

    asyncio.run(main())
    connection = sqlite3.connect(target)
    assert connection.execute("select entry from journal where position = 2").fetchone() == (
        b"only in the log",
    )
    connection.close()


def test_a_backup_leaves_the_source_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "runs.db"
    make(source)
    before = source.read_bytes()
    backup(str(source), str(tmp_path / "copy.db"))
    assert source.read_bytes() == before
    make_with_new_run(source)
    assert not source.with_name("runs.db-wal").exists()


def make_with_new_run(path: Path) -> None:
    async def run() -> None:
        store = at(path)
        await store.open()
        new = NewRun(id="more", workflow="order", fingerprint="f", entries=(b"e",), input_digest=b"d")
        assert isinstance((await store.commit([new]))[0], Applied)
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["file", "link to nothing", "the source"])
def test_a_target_that_is_there_is_refused_and_not_touched(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    make(source)
    if kind == "file":
        target.write_bytes(b"precious")
    elif kind == "link to nothing":
        target.symlink_to(tmp_path / "nothing")
    else:
        target = source
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(UsageError, match="there already"):
        backup(str(source), str(target))
    assert (target.read_bytes() if target.exists() else None) == before
    assert leftovers(tmp_path) == []


def test_a_target_that_comes_to_be_there_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    make(source)
    real = backups._copy

    def copy(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        target.write_bytes(b"precious")

    monkeypatch.setattr(backups, "_copy", copy)
    with pytest.raises(UsageError, match="there already"):
        backup(str(source), str(target))
    assert target.read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table theirs (id text)")
    connection.close()


def newer(path: Path) -> None:
    make(path)
    connection = sqlite3.connect(path)
    connection.execute("pragma user_version=999")
    connection.close()


def damaged(path: Path) -> None:
    make(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


NO_SOURCE: dict[str, tuple[Callable[[Path], object], type[HoldfastError]]] = {
    "missing": (lambda _path: None, StoreOpenError),
    "a directory": (Path.mkdir, StoreOpenError),
    "text": (lambda path: path.write_text("hello " * 1_000), FormatError),
    "empty": (Path.touch, FormatError),
    "foreign": (foreign, FormatError),
    "newer": (newer, FormatError),
    "damaged": (damaged, FormatError),
}


@pytest.mark.parametrize("kind", NO_SOURCE)
def test_what_is_no_database_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    prepare, expected = NO_SOURCE[kind]
    prepare(source)
    with pytest.raises(expected, match=r"runs\.db"):
        backup(str(source), str(target))
    assert not target.exists()
    assert leftovers(tmp_path) == []
    assert source.exists() is (kind != "missing")


def test_a_target_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    source = tmp_path / "runs.db"
    make(source)
    for target in (tmp_path / "missing" / "copy.db", source / "copy.db", Path("/proc/copy.db")):
        with pytest.raises(StoreOpenError) as caught:
            backup(str(source), str(target))
        assert caught.value.path == str(target)


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    make(source)
    full = OSError(28, "No space left on device")

    def fsync(_fd: int) -> None:
        raise full

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreOpenError, match="No space left"):
        backup(str(source), str(target))
    assert not target.exists()
    assert leftovers(tmp_path) == []


def test_the_copy_can_be_read_by_whom_the_source_can(tmp_path: Path) -> None:
    source, target = tmp_path / "runs.db", tmp_path / "copy.db"
    make(source)
    source.chmod(0o640)
    backup(str(source), str(target))
    assert target.stat().st_mode & 0o777 == 0o640


def test_names_with_special_characters_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "my runs?mode=rw#%41 é.db"
    make(source)
    monkeypatch.chdir(tmp_path)
    backup(source.name, "copy?%41#.db")
    check(tmp_path / "copy?%41#.db")
