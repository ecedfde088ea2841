"""Opening a SQLite file: pragmas, format check, migrations, and driver errors in our words."""

import contextlib
import sqlite3
from collections.abc import Generator, Iterator
from importlib import resources

from holdfast.errors import FormatError, StoreOpenError, StoreRefusedError, StoreUnavailableError

APPLICATION_ID = 0x484F4C44
"""`HOLD`: marks the file as ours (https://sqlite.org/pragma.html#pragma_application_id)."""
OWNER_BUSY_MS = 100
"""The owner may commit on the event loop's thread; what is busy for longer is asked again elsewhere."""
CLIENT_BUSY_MS = 5_000
STATEMENTS_CACHED = 256


def connect(path: str, *, busy_ms: int, reads_only: bool) -> sqlite3.Connection:
    """Open a connection with the pragmas every one of ours has; transactions are begun by hand.

    Raises:
        StoreOpenError: The file cannot be created or opened.
        FormatError: It is no SQLite database.
        StoreUnavailableError: Someone else keeps it locked.
    """
    with contextlib.ExitStack() as closing, opening(path):
        connection = sqlite3.connect(
            path,
            timeout=busy_ms / 1_000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_CACHED,
        )
        closing.callback(connection.close)
        check_format(connection, path)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        # Only the owner copies the log back, by hand and under the gate.
        connection.execute("pragma wal_autocheckpoint=0")
        if reads_only:
            connection.execute("pragma query_only=1")
        closing.pop_all()
    return connection


@contextlib.contextmanager
def opening(path: str) -> Generator[None]:
    """Turn the driver's errors at opening into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise StoreUnavailableError(store=path, reason=str(error)) from error
        raise StoreOpenError(path=path, reason=str(error)) from error
    except sqlite3.DatabaseError as error:
        raise FormatError(
            subject=path, reason="the file is no SQLite database", fix="name another file"
        ) from error


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file's format up to this version's, in one transaction."""
    with transaction(connection, path):
        scripts = _migrations()
        version = check_format(connection, path)
        for script in scripts[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        if version < len(scripts):
            connection.execute(f"pragma application_id={APPLICATION_ID}")
            connection.execute(f"pragma user_version={len(scripts)}")


def check_format(connection: sqlite3.Connection, path: str) -> int:
    """The format of the file, 0 for a new one; only reads, so that what is refused stays as it was."""
    version = int(connection.execute("pragma user_version").fetchone()[0])
    application_id = int(connection.execute("pragma application_id").fetchone()[0])
    tables = int(connection.execute("select count(*) from sqlite_schema").fetchone()[0])
    if tables and application_id != APPLICATION_ID:
        raise FormatError(
            subject=path, reason="the SQLite database of another program", fix="name another file"
        )
    known = len(_migrations())
    if version > known:
        raise FormatError(
            subject=path,
            reason=f"written in format {version}, this version knows up to {known}",
            fix="install the version of Holdfast that wrote it, or a later one",
        )
    return version


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, path: str) -> Generator[None]:
    """One immediate transaction; any exception rolls it back.

    Raises:
        StoreRefusedError: A value that SQLite can never hold.
        StoreUnavailableError: Busy, full, or a failing disk.
    """
    with translated(path):
        connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        try:
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise


@contextlib.contextmanager
def translated(path: str) -> Generator[None]:
    """Turn the driver's errors into ours; the one place where that happens."""
    try:
        yield
    except REFUSALS as error:
        raise StoreRefusedError(reason=str(error)) from error
    except sqlite3.DatabaseError as error:
        raise StoreUnavailableError(store=path, reason=str(error)) from error


REFUSALS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""What the driver raises for a value that no transaction can ever write."""


def _migrations() -> list[str]:
    folder = resources.files("holdfast.stores.sqlite") / "migrations"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction that the migration runs in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
