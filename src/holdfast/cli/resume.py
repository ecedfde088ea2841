"""`holdfast resume`: drives one run that is there, and waits for its result."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated

import typer

from holdfast.cli.loading import load_workflows
from holdfast.cli.options import AsJson, Db, RunId, existing_url, given_id
from holdfast.cli.output import note, reserve_stdout
from holdfast.cli.stopping import until_stopped
from holdfast.cli.waiting import LOOK_FIRST_S, Ended, finish, wait
from holdfast.core.run import OVER
from holdfast.engine import AsyncEngine
from holdfast.errors import CodecError, FormatError, RunBlockedError, TaskError, UsageError
from holdfast.runtime.starts import Definable
from holdfast.runtime.urls import without_password
from holdfast.runtime.views import RunStatus


def resume(
    id: RunId,
    modules: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE]...",
            help="Modules or .py files, one of which has the run's workflow. Without any, the run is only"
            " waited for.",
        ),
    ] = None,
    *,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Drive a run here and now, and print its result as JSON; one that is over just gives its result.

    A blocked run is tried again: with code that was mended it goes on. It is driven here, unless a
    worker owns the database or holds the run: then it is driven there, and waited for.

    With --json: {"id": ..., "status": "completed", "output": ...} or
    {"id": ..., "status": "failed", "failure": {...}}, as `holdfast run`.

    Exits as `holdfast run` does.
    """
    url, run_id = existing_url(db), given_id(id)
    stdout = reserve_stdout()
    ended = asyncio.run(_resume_and_wait(run_id, load_workflows(modules or ()), url))
    finish(ended, url, stdout, "the same command goes on with it", as_json=as_json)


async def _resume_and_wait(run_id: str, workflows: Sequence[Definable], url: str) -> Ended:
    async with AsyncEngine(url, workflows=workflows, worker="auto" if workflows else False) as engine:
        handle = await engine.get(run_id)
        is_over = False
        # What cannot be read is told when it is tried: whoever drives it finds it blocked.
        with contextlib.suppress(FormatError):
            status = await handle.status()
            is_over = status.status in OVER
            if not is_over:
                _check_workflow(status, workflows)
        if not is_over and not engine.is_driving:
            place = without_password(url)
            note(f"run {run_id} is not driven here: waiting for whoever drives the runs of {place}")
        async with until_stopped() as stop:
            # How it ends is told below, with what it waits for if it is not over soon.
            with contextlib.suppress(TimeoutError, TaskError, CodecError, RunBlockedError):
                async with asyncio.timeout(LOOK_FIRST_S):
                    await engine.resume(run_id)
            return await wait(engine, handle, url)
        return Ended(id=run_id, status="", stopped_by=stop.signal)


def _check_workflow(status: RunStatus, workflows: Sequence[Definable]) -> None:
    names = sorted({workflow.name for workflow in workflows})
    if names and status.workflow not in names:
        raise UsageError(
            what=f"run {status.id!r} is one of workflow {status.workflow!r}, and the modules have only"
            f" {', '.join(names)}",
            fix="name the module that has it",
        )
