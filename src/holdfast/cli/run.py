"""`holdfast run`: starts a run, or goes on with it, and waits for its result."""

import asyncio
import shlex
from signal import Signals
from typing import Annotated

import msgspec
import typer

from holdfast.cli.inputs import read_input
from holdfast.cli.loading import load_workflow
from holdfast.cli.options import MEMORY, AsJson, Db
from holdfast.cli.output import FAILED, note, reserve_stdout
from holdfast.cli.payloads import fold, output_of, plain
from holdfast.cli.stopping import until_stopped
from holdfast.core.entries import Failure
from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import (
    CodecError,
    ResultTimeoutError,
    RunBlockedError,
    TaskError,
    UsageError,
)
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import without_password
from holdfast.runtime.views import RunStatus

LOOK_FIRST_S = 2.0
LOOK_MAX_S = 10.0
"""Between looks at whether anyone drives the run that is waited for, doubling: each reads its journal."""
INTERRUPTED = 128
"""Exit code of a process that a signal ended: this plus its number."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What had become of the run when the waiting ended; `stopped_by` ended it before the run."""

    id: str
    status: str
    output: object = None
    failure: Failure | None = None
    stopped_by: Signals | None = None


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
    as_json: AsJson = False,
) -> None:
    """Start a run and print its result as JSON; without a database it runs in memory.

    It is driven here, unless a worker owns the database: then it is driven there, and waited for.

    With --json: {"id": ..., "status": "completed", "output": ...} or
    {"id": ..., "status": "failed", "failure": {"type", "message", "types",
    "traceback", "details", "notes", "cause", "step"}}.

    Exits with 0 if the run completed, 1 if it failed or is blocked, 2 if something
    about the call must be mended, 128 + n if signal n ended the waiting.
    """
    value = read_input(input)
    url = MEMORY if db is None else db
    if id is not None and url == MEMORY:
        note("without --db nothing is kept: a run with the same --id will begin anew")
    stdout = reserve_stdout()
    ended = asyncio.run(_start_and_wait(load_workflow(target), value, url, id))
    if ended.stopped_by is not None:
        note(f"run {ended.id} is not over; {_way_on(ended.id, url)}")
        raise typer.Exit(INTERRUPTED + ended.stopped_by)
    completed = ended.status == "completed"
    if as_json:
        outcome = {"output": ended.output} if completed else {"failure": plain(ended.failure)}
        stdout.print_document({"id": ended.id, "status": ended.status, **outcome})
    elif completed:
        stdout.print_document(ended.output)
    if not completed:
        _tell_failure(ended, url)
        raise typer.Exit(FAILED)


async def _start_and_wait(workflow: Definable, value: object, url: str, run_id: str | None) -> Ended:
    if not url:
        raise UsageError(what="--db names no database", fix="leave it out to run in memory")
    async with AsyncEngine(url, workflows=[workflow]) as engine:
        handle = await engine.start(workflow, value, id=run_id, on_conflict="use_existing")
        if not engine.is_driving:
            note(f"run {handle.id}: another process owns {url} and drives it; waiting for the result")
        async with until_stopped() as stop:
            return await _wait(handle)
        return Ended(id=handle.id, status="", stopped_by=stop.signal)


async def _wait(handle: AsyncHandle) -> Ended:
    """Wait until the run is over or blocked; say once if nobody drives it."""
    look_s, is_told = LOOK_FIRST_S, False
    while True:
        try:
            await handle.result(look_s)
        except ResultTimeoutError:
            is_told = is_told or _tell_undriven(await handle.status())
            look_s = min(look_s * 2, LOOK_MAX_S)
        except RunBlockedError as error:
            failure = Failure("blocked", error.reason)
            return Ended(id=handle.id, status="blocked", failure=failure)
        except (TaskError, CodecError):
            # A CodecError is an output that its own annotation refuses: it is what the run gave all the same.
            break
        else:
            break
    run = fold(handle.id, await handle.journal())
    return Ended(id=handle.id, status=run.status, output=output_of(run), failure=run.failure)


def _tell_undriven(status: RunStatus) -> bool:
    if status.worker is not None or status.status not in {"pending", "running"}:
        return False
    note(
        f"run {status.id} is {status.status} and no worker drives it: it waits for one that knows"
        f" workflow {status.workflow!r} as it was when the run started"
    )
    return True


def _tell_failure(ended: Ended, url: str) -> None:
    note(f"run {ended.id} {ended.status}")
    failure = ended.failure
    if failure is not None:
        note(f"  type:    {failure.type}")
        note(f"  step:    {failure.step or '-'}")
        note(f"  message: {failure.message}")
    if url != MEMORY:
        note(f"{_command('show', ended.id, url)} shows everything that is recorded about it")
    elif failure is not None and failure.traceback:
        note(failure.traceback.rstrip())


def _way_on(run_id: str, url: str) -> str:
    if url == MEMORY:
        return "it was in memory only, and is gone"
    return f"the same command with --id {shlex.quote(run_id)} goes on with it"


def _command(name: str, run_id: str, url: str) -> str:
    return shlex.join(["holdfast", name, run_id, "--db", without_password(url)])
