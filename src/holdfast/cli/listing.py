"""`holdfast list`: the runs of a database."""

import asyncio
from typing import Annotated, get_args

import typer

from holdfast.cli.options import AsJson, Db, existing_url
from holdfast.cli.output import moment, note, print_document, print_table
from holdfast.core.run import RunStatus
from holdfast.engine import AsyncEngine
from holdfast.errors import UsageError
from holdfast.runtime.limits import LIST_MAX
from holdfast.runtime.views import RunSummary

STATUSES: tuple[str, ...] = get_args(RunStatus)
PAGE = 100
PAGE_MAX = LIST_MAX
"""Runs of one page: more are asked for with --after."""
COLUMNS = ("id", "workflow", "status", "entries", "created", "updated")


def list_runs(
    *,
    db: Db = None,
    status: Annotated[
        str | None, typer.Option(metavar="S", help=f"Only runs that are {', '.join(STATUSES)}.")
    ] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this workflow.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=PAGE_MAX, help="Runs of one page.")] = PAGE,
    after: Annotated[str | None, typer.Option(metavar="ID", help="The last run of the page before.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, the last started first.

    With --json, an array: [{"id", "workflow", "status", "position",
    "created_at", "updated_at"}, ...]; the position counts journal entries.
    """
    url = existing_url(db)
    if status is not None and status not in STATUSES:
        raise UsageError(what=f"no run is ever {status!r}", fix=f"use {', '.join(STATUSES)}")
    page = asyncio.run(_list(url, status, workflow, limit, after))
    if as_json:
        print_document(page)
        return
    if page:
        print_table(COLUMNS, [_row(each) for each in page])
    else:
        note("no runs")
    if len(page) == limit:
        note(f"there may be more: --after {page[-1].id}")


async def _list(
    url: str, status: str | None, workflow: str | None, limit: int, after: str | None
) -> list[RunSummary]:
    async with AsyncEngine(url, worker=False) as engine:
        return await engine.list(status=status, workflow=workflow, limit=limit, after=after)


def _row(run: RunSummary) -> tuple[str, ...]:
    return (
        run.id,
        run.workflow,
        run.status,
        str(run.position),
        moment(run.created_at),
        moment(run.updated_at),
    )
