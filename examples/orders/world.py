"""The pretended outside: warehouse, bank and carrier, in a SQLite file of their own.

Like a good payment service it knows a request by its idempotency key: asked again with the same
key, it does nothing and gives the answer it gave before. It also writes down every call, before
anything else, so that afterwards one can count what really happened: `calls` has a row for each time
a step's body ran, `effects` one for each thing that was done. This is no part of Holdfast.
"""

import functools
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from examples.orders.model import Fault
from holdfast import TaskContext

FILE_VARIABLE = "ORDERS_WORLD"
DONE = "done"
DONE_BEFORE = "was done before"
PACE_VARIABLE = "ORDERS_PACE"
"""How much slower than usual the outside answers: a factor, 1 if not set."""

SCHEMA = """
create table if not exists calls (
    number integer primary key,
    run_id text not null,
    branch text not null,
    step text not null,
    visit integer not null,
    attempt integer not null,
    idempotency_key text not null,
    order_id text not null,
    process_id integer not null,
    outcome text
);
create table if not exists effects (
    number integer primary key,
    idempotency_key text not null unique,
    order_id text not null,
    step text not null,
    what text not null,
    call integer not null references calls
);
create table if not exists faults (
    order_id text not null,
    step text not null,
    kind text not null,
    times integer not null,
    primary key (order_id, step)
);
"""
REFERENCES = {"validate": "CHK", "reserve": "RES", "charge": "PAY", "pack": "BOX", "ship": "TRK"}


class BusyError(Exception):
    """The warehouse cannot serve us now; later it can."""


class CardDeclinedError(Exception):
    """The bank refuses the payment; asking again changes nothing."""


@dataclass(frozen=True)
class Call:
    """A body that ran, or began to: `outcome` is None if its process was killed before it ended."""

    number: int
    run_id: str
    branch: str
    step: str
    visit: int
    attempt: int
    idempotency_key: str
    order_id: str
    process_id: int
    outcome: str | None


@dataclass(frozen=True)
class Effect:
    """A thing that was done, and the number of the call that did it."""

    number: int
    idempotency_key: str
    order_id: str
    step: str
    what: str
    call: int


class World:
    """The file of the outside; any thread and any process may use it."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        # What is written survives a killed process. A power cut could lose it, but here is none.
        self._connection.execute("pragma synchronous=off")
        self._connection.execute("pragma journal_mode=wal")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def rehearse(self, faults: Mapping[str, Fault]) -> None:
        """Set up what goes wrong, by order id."""
        for order_id, fault in faults.items():
            self._run(
                "insert into faults values (?, ?, ?, ?)",
                (order_id, fault.step, fault.kind, fault.times),
            )

    def request(self, order_id: str, context: TaskContext) -> "Request":
        """Begin a request of the step that `context` describes; use it with `with`."""
        return Request(self, order_id, context)

    def calls(self) -> list[Call]:
        """Every call so far, in the order in which they began."""
        return [Call(*row) for row in self._run("select * from calls order by number")]

    def effects(self) -> list[Effect]:
        """Everything that was done, in order."""
        return [Effect(*row) for row in self._run("select * from effects order by number")]

    def last_call(self) -> int:
        """The number of the newest call; 0 before the first."""
        return int(self._run("select coalesce(max(number), 0) from calls")[0][0])

    def begin(self, order_id: str, context: TaskContext) -> int:
        """Write down that a body has begun."""
        rows = self._run(
            "insert into calls (run_id, branch, step, visit, attempt, idempotency_key, order_id,"
            " process_id) values (?, ?, ?, ?, ?, ?, ?, ?) returning number",
            (
                context.run_id,
                context.branch,
                context.step,
                context.visit,
                context.attempt,
                context.idempotency_key,
                order_id,
                os.getpid(),
            ),
        )
        return int(rows[0][0])

    def end(self, call: int, outcome: str) -> None:
        """Write down how a body ended."""
        self._run("update calls set outcome = ? where number = ?", (outcome, call))

    def fault(self, order_id: str, step: str, attempt: int) -> str | None:
        """What goes wrong with this attempt, if anything."""
        rows = self._run(
            "select kind from faults where order_id = ? and step = ? and (times >= ? or kind = 'declined')",
            (order_id, step, attempt),
        )
        return str(rows[0][0]) if rows else None

    def apply(self, call: int, key: str, order_id: str, step: str, what: str) -> tuple[int, bool]:
        """Do `what`, if nothing was done under `key`; the effect's number, and if it is new."""
        new = self._run(
            "insert into effects (idempotency_key, order_id, step, what, call)"
            " values (?, ?, ?, ?, ?) on conflict (idempotency_key) do nothing returning number",
            (key, order_id, step, what, call),
        )
        known = new or self._run("select number from effects where idempotency_key = ?", (key,))
        return int(known[0][0]), bool(new)

    def _run(self, sql: str, parameters: Iterable[str | int] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, tuple(parameters)).fetchall()


class Request:
    """One request to the outside, from the first to the last line of a step's body.

    Attributes:
        way_s: How long request and answer travel, each; different for every step of every order.
    """

    def __init__(self, world: World, order_id: str, context: TaskContext) -> None:
        """Made by `World.request`."""
        self._world = world
        self._order_id = order_id
        self._context = context
        self._call = 0
        self._outcome = "nothing done"
        key = context.idempotency_key.encode()
        self.way_s = (2 + zlib.crc32(key) % 7) / 1_000 * float(os.environ.get(PACE_VARIABLE, "1"))

    def __enter__(self) -> Self:
        """Write down that the body has begun."""
        self._call = self._world.begin(self._order_id, self._context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write down how the body has ended."""
        self._world.end(self._call, self._outcome if kind is None else kind.__name__)

    def apply(self, what: str) -> str:
        """Have `what` done, at most once for this idempotency key.

        Returns:
            The reference under which it was done, the same every time.

        Raises:
            TimeoutError: No answer. It may have been done or not.
            BusyError: It was not done; later it can be.
            CardDeclinedError: It was not done, and never will be.
        """
        step = self._context.step
        fault = self._world.fault(self._order_id, step, self._context.attempt)
        if fault == "declined":
            raise CardDeclinedError(f"the bank declines: {what}")
        if fault == "busy":
            raise BusyError(f"no hands free for: {what}")
        if fault == "unreachable":
            raise TimeoutError(f"no answer to: {what}")
        key = self._context.idempotency_key
        number, is_new = self._world.apply(self._call, key, self._order_id, step, what)
        self._outcome = DONE if is_new else DONE_BEFORE
        if fault == "silent":
            raise TimeoutError(f"no answer to: {what}")
        return f"{REFERENCES[step]}-{number:05}"


@functools.cache
def world() -> World:
    """The world this process works in: the file that `ORDERS_WORLD` names."""
    return World(Path(os.environ[FILE_VARIABLE]))
