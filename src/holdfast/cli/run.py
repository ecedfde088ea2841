"""`holdfast run`: starts a run, or goes on with it, and waits for its result."""

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, get_args

import typer

from holdfast.cli.inputs import read_json
from holdfast.cli.loading import load_with_children
from holdfast.cli.options import MEMORY, AsJson, Db
from holdfast.cli.output import note, reserve_stdout
from holdfast.cli.stopping import until_stopped
from holdfast.cli.waiting import Ended, finish, wait
from holdfast.engine import AsyncEngine
from holdfast.errors import UsageError
from holdfast.runtime.starts import Definable, OnConflict

POLICIES: Mapping[str, OnConflict] = {policy: policy for policy in get_args(OnConflict)}
"""What to do where the id is taken."""


def run(
    target: Annotated[
        str,
        typer.Argument(metavar="MODULE:WORKFLOW", help="A Flow or Workflow in a module or in path/to/file.py."),
    ],
    *,
    input: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|@FILE",
            help="Argument of the first step; @FILE reads it, @- from stdin. Default null.",
        ),
    ] = None,
    db: Db = None,
    id: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Of the run, 1 to 255 bytes; default a new one. A run that has it already, with the"
            " same workflow and input, goes on: after a crash give the same command again.",
        ),
    ] = None,
    on_conflict: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="If a run has the --id already: use_existing (the default) goes on with it if workflow and"
            " input are the same, fail refuses, restart puts this run in its place.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run and print its result as JSON; without a database it runs in memory.

    It is driven here, unless a worker owns the database: then it is driven there, and waited for.
    Child runs that it starts are driven here too, if their workflows are in the same module.

    With --json: {"id": ..., "status": "completed", "output": ...} or
    {"id": ..., "status": "failed", "failure": {"type", "message", "types",
    "traceback", "details", "notes", "cause", "step"}}.

    Exits with 0 if the run completed, 1 if it failed or is blocked, 2 if something
    about the call must be mended, 128 + n if signal n ended the waiting.
    """
    value = read_json(input, "--input")
    url = MEMORY if db is None else db
    policy = _policy(on_conflict, id)
    if id is not None and url == MEMORY:
        note("without --db nothing is kept: a run with the same --id will begin anew")
    stdout = reserve_stdout()
    ended = asyncio.run(_start_and_wait(load_with_children(target), value, url, id, policy))
    finish(ended, url, stdout, _way_on(ended.id, url, policy), as_json=as_json)


async def _start_and_wait(
    workflows: Sequence[Definable], value: object, url: str, run_id: str | None, policy: OnConflict
) -> Ended:
    if not url:
        raise UsageError(what="--db names no database", fix="leave it out to run in memory")
    async with AsyncEngine(url, workflows=workflows) as engine:
        handle = await engine.start(workflows[0], value, id=run_id, on_conflict=policy)
        if not engine.is_driving:
            note(f"run {handle.id}: another process owns {url} and drives it; waiting for the result")
        async with until_stopped() as stop:
            return await wait(engine, handle, url)
        return Ended(id=handle.id, status="", stopped_by=stop.signal)


def _policy(given: str | None, run_id: str | None) -> OnConflict:
    if given is None:
        return "use_existing"
    if given not in POLICIES:
        raise UsageError(what=f"--on-conflict {given!r} is not known", fix=f"use {', '.join(POLICIES)}")
    if run_id is None:
        raise UsageError(what="--on-conflict without --id: a new id is never taken", fix="give --id too")
    return POLICIES[given]


def _way_on(run_id: str, url: str, policy: OnConflict) -> str:
    if url == MEMORY:
        return "it was in memory only, and is gone"
    without = "" if policy == "use_existing" else " and without --on-conflict"
    return f"the same command with --id {shlex.quote(run_id)}{without} goes on with it"
