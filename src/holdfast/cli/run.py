"""`holdfast run`: starts a run, or goes on with it, and waits for its result."""

import asyncio
import contextlib
import shlex
import signal
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
from holdfast.errors import CodecError, ResultTimeoutError, TaskError, UsageError
from holdfast.runtime.starts import Definable

LOOK_S = 2.0
"""Between looks at whether anyone drives the run that is waited for."""
INTERRUPTED = 128
"""Exit code of a process that a signal ended: this plus its number."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of the run while the command waited; `signal` is what ended the waiting before it."""

    id: str
    status: str
    output: object = None
    failure: Failure | None = None
    signal: signal.Signals | None = None


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:WORKFLOW", help="A Flow or Workflow in a module or in path/to/file.py."
        ),
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
            help="Of the run, 1 to 255 bytes; default a new one. One that is there already, with the"
            " same workflow and input, is gone on with: after a crash give the same command again.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run and print its result as JSON; without a database it runs in memory.

    It is driven here, unless a worker owns the database: then it is driven there, and waited for.

    With --json: {"id": ..., "status": "completed", "output": ...} or {"id": ..., "status": "failed",
    "failure": {"type": ..., "message": ..., "step": ..., "traceback": ..., ...}}.

    Exits with 0 if the run completed, 1 if it failed, 2 if something about the call must be mended.
    """
    value = read_input(input)
    url = MEMORY if db is None else db
    stdout = reserve_stdout()
    ended = asyncio.run(_start_and_wait(load_workflow(target), value, url, id))
    if ended.signal is not None:
        note(f"run {ended.id} is not over; {_way_on(ended.id, url)}")
        raise typer.Exit(INTERRUPTED + ended.signal)
    completed = ended.status == "completed"
    if as_json:
        outcome = {"output": ended.output} if completed else {"failure": plain(ended.failure)}
        stdout.print_document({"id": ended.id, "status": ended.status, **outcome})
    elif completed:
        stdout.print_document(ended.output)
    if not completed:
        _tell_failure(ended, url)
        raise typer.Exit(FAILED)


async def _start_and_wait(
    workflow: Definable, value: object, url: str, run_id: str | None
) -> Ended:
    if not url:
        raise UsageError(what="--db names no database", fix="leave it out to run in memory")
    async with AsyncEngine(url, workflows=[workflow]) as engine:
        handle = await engine.start(workflow, value, id=run_id, on_conflict="use_existing")
        if not engine.is_driving:
            note(
                f"run {handle.id}: another process owns {url} and drives it; waiting for the result"
            )
        async with until_stopped() as stop:
            return await _wait(handle)
        return Ended(id=handle.id, status="", signal=stop.signal)


async def _wait(handle: AsyncHandle) -> Ended:
    """Wait until the run is over or blocked; say once that nobody drives it."""
    told = False
    while True:
        # What it came to is read from the journal: also an output that its own annotation refuses.
        with contextlib.suppress(TaskError, CodecError, ResultTimeoutError):
            await handle.result(LOOK_S)
        run = fold(handle.id, await handle.journal())
        if run.is_over:
            return Ended(
                id=handle.id, status=run.status, output=output_of(run), failure=run.failure
            )
        status = await handle.status()
        if status.status == "blocked":
            return Ended(id=handle.id, status=status.status)
        if status.worker is None and status.status != "suspended" and not told:
            told = True
            note(
                f"run {handle.id} is {status.status} and no worker drives it: one that knows workflow"
                f" {status.workflow!r} as it was when the run started goes on with it"
            )


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
    return shlex.join(["holdfast", name, run_id, "--db", url])
