"""Options that several subcommands have, and what is checked about them."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.engine import URL_VARIABLE
from holdfast.errors import UsageError

MEMORY = "memory://"
_SQLITE = "sqlite:///"
_FIX = f"give --db sqlite:///orders.db, or set {URL_VARIABLE}"

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        envvar=URL_VARIABLE,
        metavar="URL",
        help="Where runs are kept: sqlite:///relative.db, sqlite:////absolute.db or postgresql://...",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, in the form told above.")]


def durable_url(db: str | None) -> str:
    """The URL of a store that outlives this process.

    Raises:
        UsageError: None is named, or one that does not.
    """
    if not db:
        raise UsageError(what="no database is named", fix=_FIX)
    if db == MEMORY:
        raise UsageError(what=f"the runs of {MEMORY} end with their own process", fix=_FIX)
    return db


def existing_url(db: str | None) -> str:
    """The URL of a database that is there: looking at runs makes no new file.

    Raises:
        UsageError: None is named, or its file does not exist.
    """
    url = durable_url(db)
    path = url.removeprefix(_SQLITE)
    if path not in {url, ""} and not Path(path).is_file():
        raise UsageError(
            what=f"there is no database {path}",
            fix="check the URL; sqlite:/// is relative to the current directory, sqlite://// absolute",
        )
    return url
