"""`holdfast worker`: drives runs until it is told to stop."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Annotated

import typer

from holdfast.cli.loading import load_workflows
from holdfast.cli.options import AsJson, Db, durable_url
from holdfast.cli.output import Reserved, note, reserve_stdout
from holdfast.cli.stopping import until_stopped
from holdfast.engine import AsyncEngine
from holdfast.runtime.limits import CONCURRENCY, CONCURRENCY_MAX, LEASE
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import without_password
from holdfast.stores.records import DEFAULT_QUEUE


def worker(
    modules: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE",
            help="Modules or .py files; every Flow and Workflow in them is driven.",
        ),
    ],
    *,
    db: Db = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", help=f"Runs active at once, 1 to {CONCURRENCY_MAX}.")
    ] = CONCURRENCY,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Drive the runs of this queue, not the default one; may be repeated."
        ),
    ] = None,
    lease: Annotated[
        str,
        typer.Option(metavar="TIME", help="On PostgreSQL: how long a silent worker keeps its runs."),
    ] = LEASE,
    as_json: AsJson = False,
) -> None:
    """Drive all runs of the workflows in MODULE..., until SIGTERM or Ctrl-C.

    Then steps that are under way get 10 seconds, and what is unfinished waits
    for the next worker. A second signal ends it at once; nothing that was
    recorded is lost.

    With --json, two lines: {"event": "ready", "db", "workflows", "pid"} and
    {"event": "stopped", "signal"}. What tasks print goes to stderr then.
    """
    url = durable_url(db)
    stdout = reserve_stdout() if as_json else None
    workflows = load_workflows(modules)
    queues = queue or [DEFAULT_QUEUE]
    number = asyncio.run(_work(url, workflows, stdout, concurrency=concurrency, queues=queues, lease=lease))
    if stdout is not None:
        stdout.print_document({"event": "stopped", "signal": number.name})
    else:
        note(f"stopped by {number.name}; unfinished runs are given back")


async def _work(
    url: str,
    workflows: Sequence[Definable],
    stdout: Reserved | None,
    *,
    concurrency: int,
    queues: Sequence[str],
    lease: str,
) -> signal.Signals:
    async with AsyncEngine(
        url, workflows=workflows, worker=True, concurrency=concurrency, queues=queues, lease=lease
    ):
        async with until_stopped() as stop:
            _tell_ready(without_password(url), sorted(each.name for each in workflows), stdout)
            await asyncio.Event().wait()
        return stop.signal or signal.SIGTERM


def _tell_ready(url: str, names: list[str], stdout: Reserved | None) -> None:
    if stdout is not None:
        facts = {"event": "ready", "db": url, "workflows": names, "pid": os.getpid()}
        stdout.print_document(facts)
    else:
        note(f"ready: drives {', '.join(names)} in {url} (process {os.getpid()})")
