"""Scopes of a durable function: where its operations get their keys, one after the other.

A scope has one thread of control, so that its operations have one order, the same whenever the body runs.
Parallel work gets a scope for each part: parts cannot disturb each other's keys, whoever is faster. The scope
that code runs in is a context variable; who asks for an operation elsewhere gets an error that says so.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from holdfast.core.entries import OperationKind
from holdfast.core.run import SCOPE as SEPARATOR
from holdfast.core.run import Operation
from holdfast.errors import UsageError

Part = Coroutine[Any, Any, Any]


class Unwinding(BaseException):
    """Puts a body away: it is raised where the body waits, and is to pass through all of its code."""


class Owner(Protocol):
    """The body that scopes are of, as they see it."""

    running: int
    unsent: dict[str, bytes]
    is_dropped: bool

    @property
    def is_ending(self) -> bool:
        """Whether nothing more may be asked for."""
        ...

    @property
    def is_diverging(self) -> bool:
        """Whether that is because the code is not what the journal was made with."""
        ...

    def known(self, key: str) -> Operation | None:
        """The operation of that key as recorded, or None."""
        ...

    def recorded(self, path: str) -> list[Operation]:
        """What is recorded of the scope, in order, when the body began."""
        ...

    def replayed(self) -> None:
        """An operation was given as recorded."""
        ...

    def check_passed(self, scope: "Scope", found: str) -> None:
        """Nothing may be recorded of scopes within this one by now that was not asked for."""
        ...

    def abandon(self, path: str) -> None:
        """What is recorded of the scope, and of those within it, will not be asked for."""
        ...

    def diverge(self, expected: str, found: str) -> Unwinding:
        """The code is not what the journal was made with: end the body."""
        ...

    def consider(self) -> None:
        """Put the body away if nothing of it runs."""
        ...

    async def close_scopes(self, key: str, ended: tuple[int, ...]) -> None:
        """Record which parts of parallel work had ended when it was enough."""
        ...


class Scope:
    """One thread of control in a body.

    Attributes:
        path: In front of the keys of its operations; "" for the body itself.
        task: The only one that may ask for operations here.
        parent: The scope that waits for it.
        sets: Variables set here: `DELETED` for one that is gone.
        open: In front of the keys of the parallel work that is under way here.
    """

    __slots__ = (
        "_body",
        "_counts",
        "_index",
        "_recorded",
        "is_closed",
        "open",
        "parent",
        "path",
        "sets",
        "task",
    )

    def __init__(self, body: Owner, path: str, parent: "Scope | None") -> None:
        """Begins in the current task."""
        self.path = path
        self.parent = parent
        self.task = asyncio.current_task()
        self.sets: dict[str, bytes] = {}
        self.is_closed = False
        self.open = path
        self._body = body
        self._recorded = body.recorded(path)
        self._index = 0
        self._counts: dict[str, int] = {}

    def number(self, name: str) -> str:
        """The key of the next thing here that has this name."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return f"{self.path}{_label(name)}#{count}"

    def ask(
        self, kind: OperationKind, name: str, *, may_be_missing: bool = False
    ) -> tuple[str, Operation | None]:
        """The key of the operation that comes next, and what is recorded of it, if that is so already.

        One that `may_be_missing` has perhaps failed before, which is not recorded, and others were recorded
        after it. If it does not fail now, `check` is to be called before it has any effect.
        """
        key = self.number(name)
        index = self._index
        if index < len(self._recorded):
            expected = self._recorded[index]
            if expected.key != key or expected.kind != kind:
                if may_be_missing and self._skips(expected, kind, name):
                    return expected.key, expected
                if may_be_missing and self._body.known(key) is None:
                    return key, None
                raise self._body.diverge(_named(expected), f"{kind} {key}")
            self._index = index + 1
            self._body.replayed()
            return key, expected
        if not may_be_missing:
            self._body.check_passed(self, f"{kind} {key}")
        return key, None

    def _skips(self, expected: Operation, kind: OperationKind, name: str) -> bool:
        """Whether what comes next is a record of that name, after others that failed: it is given at once."""
        label, _, count = expected.key.rpartition("#")
        is_later = kind == "record" == expected.kind and label == self.path + _label(name)
        if is_later and int(count) > self._counts[name]:
            self._counts[name] = int(count)
            self._index += 1
            self._body.replayed()
            return True
        return False

    @property
    def rest(self) -> list[Operation]:
        """What is recorded here and was not asked for yet."""
        return self._recorded[self._index :]

    def is_of(self, body: Owner) -> bool:
        """Whether it is a scope of that body."""
        return self._body is body

    def check(self, found: str) -> None:
        """Nothing may be recorded, here or within, that was not asked for: raises `Unwinding` if there is."""
        self.end(found)
        self._body.check_passed(self, found)

    def set(self, sets: Mapping[str, bytes]) -> None:
        """Set variables here, and where the scope is the body itself, with the next entry."""
        self.sets.update(sets)
        if self.parent is None:
            self._body.unsent.update(sets)

    def find(self, name: str) -> bytes | None:
        """The variable if it was set here, or where the scope was opened; `DELETED` for one that is gone."""
        if name in self.sets or self.parent is None:
            return self.sets.get(name)
        return self.parent.find(name)

    def abandon(self) -> None:
        """Nothing more will be asked for here."""
        while self._index < len(self._recorded):
            self._index += 1
            self._body.replayed()

    def end(self, found: str) -> None:
        """Nothing may be recorded that was not asked for: raises `Unwinding` if there is."""
        if self._index < len(self._recorded):
            raise self._body.diverge(_named(self._recorded[self._index]), found)


SCOPE_NOW: ContextVar[Scope | None] = ContextVar("holdfast_scope", default=None)


def current_scope(body: Owner, what: str) -> Scope:
    """The scope that the calling code runs in.

    Raises:
        UsageError: It runs in a task that is no scope's own, or inside a step.
        asyncio.CancelledError: The scope was cancelled, and takes nothing more.
        Unwinding: The body is being put away.
    """
    scope = SCOPE_NOW.get()
    if body.is_dropped:
        raise asyncio.CancelledError
    if body.is_ending:
        raise Unwinding
    if scope is not None and not scope.is_of(body):
        raise UsageError(
            what=f"{what} was called on the context of another function, or of one that is over",
            fix="use the context that this function was given",
        )
    if scope is None or scope.task is not asyncio.current_task():
        inside = "inside a step" if scope is None else "in a task that the workflow does not own"
        raise UsageError(
            what=f"{what} was called {inside}, where its place in the journal would be left to chance",
            fix="call it in the workflow itself; run parallel work with ctx.gather(...) or ctx.map(...)",
        )
    if scope.is_closed:
        raise asyncio.CancelledError
    return scope


class Ended(NamedTuple):
    """How a part has ended: with a value, or with an error."""

    value: Any
    error: Exception | None = None


Results = list[Ended | None]
"""Of each part, in their order; None for one that has not ended."""
Enough = Callable[[Results], tuple[int, ...] | None]
"""The numbers of the parts that count, once it is enough; None until then."""


class Parts:
    """Parallel work: each part in a scope and a task of its own."""

    def __init__(self, body: Owner, scope: Scope, name: str, parts: Sequence[Callable[[], Part]]) -> None:
        """Args: whose it is, where it begins, what keys call it, and what makes each part's coroutine."""
        self._body = body
        self._scope = scope
        self._key = scope.number(name)
        self._parts = parts
        self._results: Results = [None] * len(parts)
        self._scopes: dict[int, Scope] = {}
        self._live: dict[int, asyncio.Task[None]] = {}
        self._news: list[int] = []
        self._change: asyncio.Future[None] | None = None
        self._is_unwound = False
        self._is_away = False

    async def run(self, enough: Enough, *, limit: int) -> Results:
        """Run the parts, `limit` at once, until all have ended or it is enough; the rest is cancelled.

        What was enough is recorded: when the body runs again, the same parts count, and no others run.
        """
        known = self._body.known(self._key)
        wanted = range(len(self._parts)) if known is None else known.ended
        self._body.running -= 1
        self._is_away = True
        self._scope.open = self._key + SEPARATOR
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._run(tasks, iter(wanted), enough if known is None else never, limit)
        finally:
            self._scope.open = self._scope.path
            self._come_back()
            # What was cancelled has ended by now.
            self._body.running -= len(self._live)
            for number in [number for number, result in enumerate(self._results) if result is None]:
                self._abandon(number)
        if self._is_unwound or self._body.is_ending:
            raise Unwinding
        for number, scope in sorted(self._scopes.items()):
            result = self._results[number]
            if result is not None and result.error is None:
                self._scope.set(scope.sets)
        return self._results

    def _abandon(self, number: int) -> None:
        if number in self._scopes:
            self._scopes[number].abandon()
        self._body.abandon(self._path(number))

    async def _run(self, tasks: asyncio.TaskGroup, waiting: Iterator[int], enough: Enough, limit: int) -> None:
        while True:
            while len(self._live) < limit and (number := next(waiting, None)) is not None:
                self._body.running += 1
                self._live[number] = tasks.create_task(self._part(number))
            if not self._live:
                self._come_back()
                return
            if not self._news:
                self._change = asyncio.get_running_loop().create_future()
                self._body.consider()
                await self._change
            ended = None if self._is_unwound else enough(self._results)
            if ended is not None or self._body.is_diverging:
                self._come_back()
                if ended is not None:
                    await self._close(ended)
                self._cancel()
                return
            # Until here those that have ended counted as running, so that nobody put the body away.
            news, self._news = self._news, []
            self._body.running -= len(news)
            for number in news:
                del self._live[number]

    def _come_back(self) -> None:
        """Who waits for the parts runs again."""
        if self._is_away:
            self._is_away = False
            self._body.running += 1

    async def _close(self, ended: tuple[int, ...]) -> None:
        await self._body.close_scopes(self._key, ended)
        # Who has ended meanwhile came too late.
        self._results = [each if number in ended else None for number, each in enumerate(self._results)]

    def _cancel(self) -> None:
        for number, task in self._live.items():
            if number in self._scopes:
                self._scopes[number].is_closed = True
            task.cancel()

    def _path(self, number: int) -> str:
        return f"{self._key}{SEPARATOR}{number}{SEPARATOR}"

    async def _part(self, number: int) -> None:
        scope = self._scopes[number] = Scope(self._body, self._path(number), self._scope)
        SCOPE_NOW.set(scope)
        try:
            value = await self._parts[number]()
            scope.end("its end")
            self._results[number] = Ended(value)
        except Unwinding:
            self._is_unwound = True
        except asyncio.CancelledError:
            if scope.is_closed or (scope.task is not None and scope.task.cancelling()):
                raise
            self._results[number] = Ended(None, RuntimeError(f"{scope.path} was cancelled by its own code"))
        except Exception as error:  # noqa: BLE001 - given to whoever waits for the part
            self._failed(scope, number, error)
        finally:
            self._news.append(number)
            if self._change is not None and not self._change.done():
                self._change.set_result(None)

    def _failed(self, scope: Scope, number: int, error: Exception) -> None:
        try:
            scope.end(f"{type(error).__name__}: {error}")
            self._results[number] = Ended(None, error)
        except Unwinding:
            self._is_unwound = True


def first_failed(results: Results) -> tuple[int, ...] | None:
    """Enough once a part has failed; all that have ended by then count."""
    return _ended(results) if any(each is not None and each.error is not None for each in results) else None


def first_ended(results: Results) -> tuple[int, ...] | None:
    """Enough once a part has ended, and only that counts; of several at once the first in their order."""
    return _ended(results)[:1] or None


def never(_results: Results) -> tuple[int, ...] | None:
    """All of them are to end."""
    return None


def enough_of(results: Results, *, enough: int, failures_max: int, items: int) -> tuple[int, ...] | None:
    """Enough once so many have completed, or more than so many have failed; all that have ended count.

    Also where all have ended together: in the next life some of them may be enough before the others end.
    """
    completed = sum(each is not None and each.error is None for each in results)
    failed = sum(each is not None and each.error is not None for each in results)
    is_over = failed > failures_max or completed >= enough < items
    return _ended(results) if is_over else None


def _ended(results: Results) -> tuple[int, ...]:
    return tuple(number for number, each in enumerate(results) if each is not None)


def _named(operation: Operation) -> str:
    return f"{operation.kind} {operation.key}"


def _label(name: str) -> str:
    if name.isidentifier():
        return name
    return name.replace("%", "%25").replace(SEPARATOR, "%2F").replace("#", "%23")
