"""What the subcommands print: documents and tables on stdout, notes on stderr."""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import typer

FAILED = 1
"""Exit code: the run ended without an output, or is in no state for what was asked."""
MISTAKE = 2
"""Exit code: the caller has to mend something."""
INTERRUPTED = 128
"""Exit code of a process that a signal ended: this plus its number."""
SHORT_CHARACTERS_MAX = 60
"""Of a value in a table: more would push everything else out of sight."""
LONG_CHARACTERS_MAX = 2_000
"""Of a value that stands alone; `--json` has all of it."""
_WIDE = 10_000
"""Columns of a table that goes into a file or pipe: each row stays one line, for grep."""
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
# C0 but tab and newline, DEL, C1 and lone surrogates: what could steer or upset a terminal.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def note(text: str) -> None:
    """Tell a person something, on stderr."""
    typer.echo(printable(text), err=True)


def print_document(value: object) -> None:
    """Print one line of JSON, in UTF-8 whatever the terminal is."""
    typer.echo(encoded(value))


def encoded(value: object) -> bytes:
    """A document as compact JSON; text with lone surrogates, which UTF-8 has not, makes it ASCII."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=_plainer).encode("ascii")


def _plainer(value: object) -> object:
    return json.loads(bytes(value)) if isinstance(value, msgspec.Raw) else msgspec.to_builtins(value)


def print_line(text: str = "") -> None:
    """Print text for people on stdout."""
    typer.echo(printable(text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under column names; as wide as they are unless a terminal bounds them."""
    from rich import box  # noqa: PLC0415 - 40 ms that `run` and `worker` need not spend
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if bounded else _WIDE).print(table)


def reserve_stdout() -> "Reserved":
    """Keep stdout for what the command was asked for.

    From here on everything that user code prints, its threads and child processes included, goes to
    stderr.
    """
    sys.stdout.flush()
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Reserved(kept)


class Reserved:
    """The stdout that was reserved."""

    def __init__(self, descriptor: int) -> None:
        """Args: a descriptor that this object owns."""
        self._descriptor = descriptor

    def print_document(self, value: object) -> None:
        """Print one line of JSON."""
        with open(self._descriptor, "wb", closefd=False) as file:
            file.write(encoded(value) + b"\n")


def printable(text: str) -> str:
    """The text with control characters shown instead of sent to the terminal."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def shortened(text: str, characters_max: int = SHORT_CHARACTERS_MAX) -> str:
    """The text on one line, cut with an ellipsis where it is longer."""
    line = printed_line(text)
    return line if len(line) <= characters_max else f"{line[: characters_max - 3]}..."


def printed_line(text: str) -> str:
    """The text on one line, whatever people have written into it."""
    return " ".join(text.split())


def duration(ms: int) -> str:
    """A duration as people write it, such as `1h30m` or `250ms`; what they write is read back as the same."""
    parts: list[str] = []
    for unit, size in _UNITS_MS.items():
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def moment(at: datetime) -> str:
    """An instant in UTC, to the millisecond, as `2030-01-31 12:00:00.000Z`."""
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1_000:03}Z"
