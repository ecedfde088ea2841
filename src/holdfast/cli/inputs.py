"""Inputs and payloads: strict JSON from the command line, a file or stdin."""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from holdfast.errors import UsageError


def read_json(given: str | None, what: str) -> object:
    """A value that was given as JSON, or as `@file` to read it from (`@-` is stdin); None without it.

    Args:
        given: On the command line.
        what: Names the argument in errors.

    Raises:
        UsageError: No such file, or not JSON; it names line and column.
    """
    if given is None:
        return None
    if not given.startswith("@"):
        return _parse(given, what)
    name = given[1:]
    return _parse(_read(name), "stdin" if name == "-" else name)


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            what=f"the input file {name!r} cannot be read: {reason}",
            fix="@ is followed by the path of a file, or by - for stdin",
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            what=f"the input file {name!r} is not UTF-8 at byte {error.start}", fix="JSON is UTF-8"
        ) from error


def _parse(text: str, source: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        what = f"{source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise UsageError(
            what=what, fix="text needs double quotes, and the shell keeps them in '...'"
        ) from error
    except (_RefusedError, ValueError, RecursionError) as error:
        raise UsageError(
            what=f"{source} is not JSON that can be kept: {error}", fix="change that part"
        ) from error


class _RefusedError(Exception):
    """JSON that different readers read differently."""


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"key {json.dumps(twice)} stands twice in one object"
        raise _RefusedError(message)
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is no number of JSON"
    raise _RefusedError(message)
