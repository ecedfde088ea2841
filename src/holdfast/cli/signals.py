"""`holdfast signal`: sends a signal to a run."""

import asyncio
from typing import Annotated

import typer

from holdfast.cli.inputs import read_json
from holdfast.cli.options import AsJson, Db, RunId, existing_url, given_id
from holdfast.cli.output import print_document, print_line
from holdfast.engine import AsyncEngine


def signal(
    id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the signal, as the workflow waits for it.")],
    payload: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON|@FILE]",
            help="What the waiting step gets; @FILE reads it, @- from stdin. Default null. A negative number"
            " stands behind -- .",
        ),
    ] = None,
    *,
    message_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="MSG",
            help="Makes sending it twice harmless: one id is stored once for each run. Default a new one.",
        ),
    ] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Send a signal to a run that is not over, and print the id of the message.

    Then it is on disk, and waits in order of sending until a branch takes it.

    With --json: {"run_id", "name", "id"}.

    Exits with 0 if it was stored, 1 if the run is over or has too many signals
    pending, 2 if something about the call must be mended.
    """
    url, run_id = existing_url(db), given_id(id)
    value = read_json(payload, "the payload")
    sent = asyncio.run(_send(url, run_id, name, value, message_id))
    if as_json:
        print_document({"run_id": run_id, "name": name, "id": sent})
    else:
        print_line(sent)


async def _send(url: str, run_id: str, name: str, value: object, message_id: str | None) -> str:
    async with AsyncEngine(url, worker=False) as engine:
        return await engine.send_signal(run_id, name, value, id=message_id)
