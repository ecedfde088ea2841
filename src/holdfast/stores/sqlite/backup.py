"""Copying a database as it is at one moment, beside a worker that goes on.

The copy is made by SQLite's backup interface (https://sqlite.org/backup.html) in one step, within one read
transaction: writers are neither waited for nor held up, and what they write meanwhile is not in the copy. Only
the write-ahead log cannot be begun anew for that time, so it grows by what they write.
"""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Generator
from pathlib import Path

from holdfast.errors import FormatError, StoreOpenError, UsageError
from holdfast.stores.sqlite.connection import CLIENT_BUSY_MS, check_format, opening


def backup(path: str, target: str) -> int:
    """Copy the database at `path` into a new file; blocking, for as long as reading and writing it takes.

    The target is there whole and fsynced, or not at all. It is one file, of the same format as the source. Who
    can only read cannot tidy up: beside a source that nobody has open, an empty log and its index stay, which
    go with the next opening.

    Args:
        path: A database of ours, in use or not.
        target: Where nothing is yet, in a directory that is there.

    Returns:
        Size of the copy in bytes.

    Raises:
        UsageError: The target is there already; it was not touched.
        StoreOpenError: The source cannot be read or the target not be written; there is no target.
        FormatError: The source is no database of ours, of a newer format, or damaged; there is no target.
        StoreUnavailableError: Someone keeps the source locked; trying again may work.
    """
    if os.path.lexists(target):
        raise _taken(target)
    with _source(path) as source, _placed(Path(target), mode=Path(path).stat().st_mode & 0o777) as partial:
        _copy(source, path, partial, target)
        return partial.stat().st_size


def _taken(target: str) -> UsageError:
    return UsageError(what=f"{target} is there already", fix="name a file that is not, or remove it first")


@contextlib.contextmanager
def _source(path: str) -> Generator[sqlite3.Connection]:
    """A connection that can only read, in a read transaction over a database of ours."""
    with contextlib.ExitStack() as closing, opening(path):
        connection = sqlite3.connect(
            f"{Path(path).absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=CLIENT_BUSY_MS / 1_000,
            isolation_level=None,
        )
        closing.callback(connection.close)
        connection.execute("begin")
        if check_format(connection, path) == 0:
            raise FormatError(subject=path, reason="an empty database", fix="name another file")
        closing.pop_all()
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def _placed(target: Path, *, mode: int) -> Generator[Path]:
    """A file to write, which gets the target's name when that has worked, and is removed when not.

    Args:
        target: The name.
        mode: Who may read the source may read the copy, and nobody else.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        partial = Path(name)
        try:
            os.fchmod(fd, mode)
            yield partial
            os.fsync(fd)
            # A link, as renaming would overwrite what has come to be there meanwhile.
            os.link(partial, target)
        finally:
            os.close(fd)
            partial.unlink()
        _sync_folder(target.parent)
    except FileExistsError as error:
        raise _taken(str(target)) from error
    except OSError as error:
        raise StoreOpenError(path=str(target), reason=str(error.strerror)) from error


def _sync_folder(folder: Path) -> None:
    """Make the new name last as well."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: sqlite3.Connection, path: str, partial: Path, target: str) -> None:
    try:
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            # What is half written is thrown away, and what is whole is fsynced at the end.
            copy.execute("pragma synchronous=off")
            source.backup(copy)
    except sqlite3.OperationalError as error:
        raise StoreOpenError(path=target, reason=str(error)) from error
    except sqlite3.DatabaseError as error:
        raise FormatError(
            subject=path, reason=f"the database is damaged ({error})", fix="restore it from an earlier backup"
        ) from error
