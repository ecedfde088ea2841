"""`holdfast pause`, `unpause`, `cancel`, `retry` and `delete`: what people do to a run.

None of them drives anything: a run that a worker holds gets a message, any other is changed here and now.
"""

import asyncio
import getpass
import os
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from holdfast.cli.options import AsJson, Db, RunId, existing_url, given_id, given_text
from holdfast.cli.output import FAILED, INTERRUPTED, note, print_document
from holdfast.cli.stopping import until_stopped
from holdfast.cli.waiting import Ended, tell_failure, wait, why
from holdfast.definition.task import check_name
from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.runtime.explain import Explanation

By = Annotated[
    str | None,
    typer.Option("--by", metavar="WHO", help="Who asks for it; default the name you logged in with."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="For whoever looks at the run.")]
Branch = Annotated[
    str | None, typer.Option("--branch", metavar="NAME", help="Only this branch; default the whole run.")
]


def pause(
    id: RunId,
    *,
    reason: Reason = "",
    by: By = None,
    branch: Branch = None,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze/--no-freeze",
            help="Whether sleeps, time-outs and retries stand still until it is unpaused.",
        ),
    ] = True,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Let a run start nothing more until it is unpaused; steps that are under way end.

    Signals are still received. Pausing what is paused changes nothing.

    With --json: {"id", "status"}; a worker that holds the run may not have
    read of it yet, and then the status is still the one before.

    Exits with 0, 1 if the run is over or blocked, 2 if something about the call must be mended.
    """
    text, who, where = given_text(reason, "--reason"), _who(by), _branch(branch)
    url, run_id = existing_url(db), given_id(id)

    async def ask(handle: AsyncHandle) -> None:
        await handle.pause(text, by=who, branch=where, freeze=freeze)

    now = asyncio.run(_controlled(url, run_id, ask))
    _tell(now, f"{_subject(run_id, where)} starts nothing more", as_json=as_json)


def unpause(id: RunId, *, by: By = None, branch: Branch = None, db: Db = None, as_json: AsJson = False) -> None:
    """Let a paused run go on: all of it, or one branch. What is not paused just goes on.

    With --json: {"id", "status"}, as for `holdfast pause`.

    Exits as `holdfast pause` does.
    """
    who, where = _who(by), _branch(branch)
    url, run_id = existing_url(db), given_id(id)

    async def ask(handle: AsyncHandle) -> None:
        await handle.unpause(by=who, branch=where)

    now = asyncio.run(_controlled(url, run_id, ask))
    _tell(now, f"{_subject(run_id, where)} goes on", as_json=as_json)


def cancel(
    id: RunId,
    *,
    reason: Reason = "",
    by: By = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return only when the run is over.")] = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """End a run: it is cancelled now, or will be by the worker that holds it, and cannot end otherwise.

    Completed steps are kept. Cancelling a cancelled run changes nothing.

    With --json: {"id", "status"}; without --wait the status may still be the
    one before, as for `holdfast pause`.

    Exits with 0, 1 if the run has completed or failed before, 2 if something about the call
    must be mended, 128 + n if signal n ended the waiting.
    """
    text, who = given_text(reason, "--reason"), _who(by)
    url, run_id = existing_url(db), given_id(id)

    async def ask(handle: AsyncHandle) -> None:
        await handle.cancel(text, by=who)

    if wait:
        status = _over(asyncio.run(_cancelled(url, run_id, ask)), url)
    else:
        status = asyncio.run(_controlled(url, run_id, ask)).status
    if as_json:
        print_document({"id": run_id, "status": status})
    elif status == "cancelled":
        note(f"run {run_id} is cancelled")
    else:
        note(f"run {run_id} is {status}; the worker that holds it cancels it")


def retry(id: RunId, *, by: By = None, db: Db = None, as_json: AsJson = False) -> None:
    """Let a failed run go on at the step that failed, with new retries; the same run and journal.

    A worker takes it from there, or `holdfast resume`.

    With --json: {"id", "status"}.

    Exits with 0, 1 if the run has not failed, 2 if something about the call must be mended.
    """
    who, url, run_id = _who(by), existing_url(db), given_id(id)
    now = asyncio.run(_retried(url, run_id, who))
    _tell(now, f"run {run_id} goes on where it failed", as_json=as_json)


def delete(id: RunId, *, db: Db = None, as_json: AsJson = False) -> None:
    """Remove a run that is over, with its journal and its signals.

    With --json: {"id"}.

    Exits with 0, 1 if the run is not over, 2 if something about the call must be mended.
    """
    url, run_id = existing_url(db), given_id(id)
    asyncio.run(_deleted(url, run_id))
    if as_json:
        print_document({"id": run_id})
    else:
        note(f"run {run_id} is deleted")


async def _controlled(url: str, run_id: str, ask: Callable[[AsyncHandle], Awaitable[None]]) -> Explanation:
    async with AsyncEngine(url, worker=False) as engine:
        handle = await engine.get(run_id)
        await ask(handle)
        return await handle.explain()


async def _cancelled(url: str, run_id: str, ask: Callable[[AsyncHandle], Awaitable[None]]) -> Ended:
    async with AsyncEngine(url, worker=False) as engine:
        handle = await engine.get(run_id)
        await ask(handle)
        async with until_stopped() as stop:
            return await wait(engine, handle, url)
        return Ended(id=run_id, status="", stopped_by=stop.signal)


async def _retried(url: str, run_id: str, by: str) -> Explanation:
    async with AsyncEngine(url, worker=False) as engine:
        handle = await engine.retry(run_id, by=by)
        return await handle.explain()


async def _deleted(url: str, run_id: str) -> None:
    async with AsyncEngine(url, worker=False) as engine:
        await engine.delete(run_id)


def _over(ended: Ended, url: str) -> str:
    if ended.stopped_by is not None:
        note(f"run {ended.id} is not over yet; the worker that holds it cancels it")
        raise typer.Exit(INTERRUPTED + ended.stopped_by)
    if ended.status != "cancelled":
        tell_failure(ended, url)
        raise typer.Exit(FAILED)
    return ended.status


def _tell(now: Explanation, done: str, *, as_json: bool) -> None:
    if as_json:
        print_document({"id": now.run_id, "status": now.status})
    else:
        note(done)
        note(f"{now.reason}: {why(now)}")


def _subject(run_id: str, branch: str | None) -> str:
    return f"run {run_id}" if branch is None else f"branch {branch} of run {run_id}"


def _branch(branch: str | None) -> str | None:
    # An empty name would mean the whole run: hardly what a script with an unset variable wants.
    return None if branch is None else check_name(branch, what="branch")


def _who(by: str | None) -> str:
    if by is not None:
        return given_text(by, "--by")
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container may run under a number that has no name.
        return f"user {os.getuid()}"
