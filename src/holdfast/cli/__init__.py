"""The `holdfast` command; each subcommand is a function in a module of this folder.

What a subcommand was asked for goes to stdout, everything else to stderr. It exits with 0, with 1
for a run that ended without an output or is in no state for what was asked, with 2 for everything
its caller has to mend, and with 128 + n when signal n interrupted it. `import holdfast` imports
nothing of this.
"""

import io
import sys
from importlib import metadata
from typing import Annotated

import typer

from holdfast.cli.control import cancel, delete, pause, retry, unpause
from holdfast.cli.db import db
from holdfast.cli.explaining import explain
from holdfast.cli.listing import list_runs
from holdfast.cli.output import FAILED, MISTAKE, note
from holdfast.cli.resume import resume
from holdfast.cli.run import run
from holdfast.cli.show import show
from holdfast.cli.signals import signal
from holdfast.cli.worker import worker
from holdfast.errors import HoldfastError, RunBlockedError, RunStateError, SignalLimitError

REFUSED = (RunStateError, RunBlockedError, SignalLimitError)
"""The call was right, and the run is in no state for it: a script may go on, nobody has to mend the call."""

app = typer.Typer(name="holdfast", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command("run")(run)
app.command("resume")(resume)
app.command("worker")(worker)
app.command("list")(list_runs)
app.command("show")(show)
app.command("explain")(explain)
app.command("signal")(signal)
app.command("pause")(pause)
app.command("unpause")(unpause)
app.command("cancel")(cancel)
app.command("retry")(retry)
app.command("delete")(delete)
app.add_typer(db, name="db")


def main() -> None:
    """Run the command that the arguments of this process name, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Text of other people may hold what this terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="holdfast")
    except HoldfastError as error:
        note(f"error: {error}")
        sys.exit(FAILED if isinstance(error, REFUSED) else MISTAKE)


def _show_version(*, value: bool) -> None:
    if value:
        typer.echo(f"holdfast {metadata.version('holdfast')}")
        raise typer.Exit


@app.callback()
def holdfast(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    """Durable workflows from the command line: what was started goes on after a crash."""
