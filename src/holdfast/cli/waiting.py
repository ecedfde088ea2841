"""Waiting for a run, wherever it is driven, and telling how it ended: for `run`, `resume` and `cancel`."""

import shlex
from signal import Signals

import msgspec
import typer

from holdfast.cli.options import MEMORY
from holdfast.cli.output import FAILED, INTERRUPTED, Reserved, note, printed_line
from holdfast.cli.payloads import fold, output_of, plain
from holdfast.core.entries import Failure
from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import CodecError, ResultTimeoutError, RunBlockedError, TaskError, UsageError
from holdfast.runtime.explain import Explanation
from holdfast.runtime.urls import without_password

LOOK_FIRST_S = 2.0
LOOK_MAX_S = 10.0
"""Between looks at why the run that is waited for is not over, doubling: each reads its journal."""
_USUAL = ("running", "join", "over")
"""Reasons that are not worth a word while somebody waits."""
_UNREACHABLE = ("signal", "pause")
"""What a run in memory waits for in vain."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What had become of the run when the waiting ended; `stopped_by` ended it before the run."""

    id: str
    status: str
    output: object = None
    failure: Failure | None = None
    stopped_by: Signals | None = None


async def wait(engine: AsyncEngine, handle: AsyncHandle, url: str) -> Ended:
    """Wait until the run is over or blocked; say what it waits for meanwhile, once for each thing.

    Raises:
        UsageError: It is in memory, and waits for what only another process could give it.
    """
    look_s, told = LOOK_FIRST_S, None
    while True:
        try:
            await handle.result(look_s)
        except ResultTimeoutError:
            told = _tell_why(await _explained(engine, handle), url, told)
            look_s = min(look_s * 2, LOOK_MAX_S)
        except RunBlockedError as error:
            failure = (await handle.status()).failure or Failure("blocked", error.reason)
            return Ended(id=handle.id, status="blocked", failure=failure)
        except (TaskError, CodecError):
            # A CodecError is an output that its own annotation refuses: it is what the run gave all the same.
            break
        else:
            break
    run = fold(handle.id, await handle.journal())
    return Ended(id=handle.id, status=run.status, output=output_of(run), failure=run.failure)


async def _explained(engine: AsyncEngine, handle: AsyncHandle) -> Explanation:
    """Why the run does not go on; where it waits for a child, why that one does not, and so on."""
    explanation = await handle.explain()
    while explanation.child is not None:
        explanation = await (await engine.get(explanation.child)).explain()
    return explanation


def why(explanation: Explanation) -> str:
    """What a run waits for and who must act, as one line."""
    action = f"; {explanation.action}" if explanation.action else ""
    return printed_line(f"{explanation.detail}{action}")


def _tell_why(explanation: Explanation, url: str, told: tuple[str, ...] | None) -> tuple[str, ...] | None:
    thing = (
        explanation.run_id,
        explanation.reason,
        explanation.branch,
        explanation.step,
        explanation.operation,
    )
    if explanation.reason in _USUAL or thing == told:
        return told
    if url == MEMORY and explanation.reason in _UNREACHABLE:
        raise UsageError(
            what=f"in memory nobody can reach run {explanation.run_id}: {explanation.detail}",
            fix="give --db, so that other processes can",
        )
    note(f"run {explanation.run_id}: {why(explanation)}")
    return thing


def finish(ended: Ended, url: str, stdout: Reserved, way_on: str, *, as_json: bool) -> None:
    """Print what became of a run, and exit with what that means.

    Args:
        ended: What became of it.
        url: Where it is.
        stdout: For the result.
        way_on: How to go on with one that is not over.
        as_json: Whether the result is the whole outcome.
    """
    if ended.stopped_by is not None:
        note(f"run {ended.id} is not over; {way_on}")
        raise typer.Exit(INTERRUPTED + ended.stopped_by)
    completed = ended.status == "completed"
    if as_json:
        outcome = {"output": ended.output} if completed else {"failure": plain(ended.failure)}
        stdout.print_document({"id": ended.id, "status": ended.status, **outcome})
    elif completed:
        stdout.print_document(ended.output)
    if not completed:
        tell_failure(ended, url)
        raise typer.Exit(FAILED)


def tell_failure(ended: Ended, url: str) -> None:
    """Tell people what stopped a run, and where there is more to see."""
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


def _command(name: str, run_id: str, url: str) -> str:
    return shlex.join(["holdfast", name, run_id, "--db", without_password(url)])
