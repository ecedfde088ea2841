"""`holdfast db`: the tables of a PostgreSQL database, and backups of a SQLite file.

A SQLite file is brought up to date when it is opened.
"""

import asyncio
from types import ModuleType
from typing import Annotated

import typer

from holdfast.cli.options import AsJson, Db, durable_url, existing_url, sqlite_path
from holdfast.cli.output import note, print_document
from holdfast.errors import UsageError
from holdfast.runtime.urls import is_postgres, postgres_schema, without_ours, without_password
from holdfast.stores.sqlite.backup import backup as copy

BEHIND = 1
"""Exit status of `status` where `migrate` has something to do."""

db = typer.Typer(no_args_is_help=True, help="The tables of a PostgreSQL database; backups of a SQLite file.")


@db.command("migrate")
def migrate(*, db: Db = None, as_json: AsJson = False) -> None:
    """Bring the tables to the format of this version; make them where there are none.

    Each step is one transaction, one process at a time. A fleet may be
    deployed before or after: a version works with the format before its own.

    With --json: {"found", "oldest", "known"}, formats as they are now.
    """
    address, schema = _postgres(db)
    status = asyncio.run(schema.migrate(address))
    if as_json:
        print_document(status)
    else:
        note(f"the tables have format {status.found}")


@db.command("status")
def status(*, db: Db = None, as_json: AsJson = False) -> None:
    """Tell which format the tables have; exit status 1 where `migrate` has something to do.

    With --json: {"found", "oldest", "known"}: in the database (0 for none),
    the oldest that this version works with, and the one it migrates to.
    """
    address, schema = _postgres(db)
    status = asyncio.run(schema.status(address))
    if as_json:
        print_document(status)
    else:
        there = f"the tables have format {status.found}" if status.found else "there are no tables"
        note(f"{there}; this version knows {status.oldest} to {status.known}")
    if status.found < status.known:
        raise typer.Exit(BEHIND)


@db.command("print-sql")
def print_sql(
    *,
    db: Db = None,
    from_format: Annotated[
        int, typer.Option("--from", metavar="N", min=0, help="The format that is there; 0 for none.")
    ] = 0,
) -> None:
    """Print what `migrate` would do, for those whose database is changed by other hands."""
    address, schema = _postgres(db)
    place = schema.Address(address, schema=schema.DEFAULT_SCHEMA)
    typer.echo(schema.sql(place.schema, from_format), nl=False)


@db.command("backup")
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where the copy goes; nothing may be there yet.")],
    *,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Copy a SQLite database as it is at one moment, beside a worker that goes on.

    With --json: {"file", "bytes"}.
    """
    url = existing_url(db)
    path = sqlite_path(url)
    if is_postgres(url):
        raise UsageError(what=f"{without_password(url)} is a PostgreSQL database", fix="use pg_dump for it")
    if path is None:
        raise UsageError(what=f"{url!r} is no URL of a SQLite database", fix="write --db sqlite:///orders.db")
    size = copy(path, file)
    if as_json:
        print_document({"file": file, "bytes": size})
    else:
        note(f"{file} has all runs of {path} as they were: {size:,} bytes")


def _postgres(db: str | None) -> tuple[str, ModuleType]:
    url = durable_url(db)
    if not is_postgres(url):
        raise UsageError(
            what=f"{without_password(url)} is no PostgreSQL database",
            fix="a SQLite file needs none of this: it is brought up to date when it is opened",
        )
    return without_ours(url)[0], postgres_schema()
