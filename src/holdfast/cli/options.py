"""Options that several subcommands have, and what is checked about them."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.definition.task import check_name
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
RunId = Annotated[str, typer.Argument(metavar="ID", help="Of the run.")]
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
    path = sqlite_path(url)
    if path is not None and not Path(path).is_file():
        raise UsageError(
            what=f"there is no database {path}",
            fix="check the URL; sqlite:/// is relative to the current directory, sqlite://// absolute",
        )
    return url


def sqlite_path(url: str) -> str | None:
    """The file that a URL names, None if it names none."""
    path = url.removeprefix(_SQLITE)
    return None if path in {url, ""} else path


def given_id(run_id: str) -> str:
    """The id of a run, if any can have it.

    Raises:
        UsageError: None can.
    """
    return check_name(run_id, what="run id")


def given_text(text: str, option: str) -> str:
    """What people are to read.

    Raises:
        UsageError: Its bytes are no UTF-8: Python has surrogates in their place, which no store takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(what=f"{option} {text!r} is not UTF-8", fix="write it in UTF-8") from error
    return text
