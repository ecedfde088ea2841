"""What a durable function must have come to, by what is recorded: its asks, read once more, without the engine.

It answers what the body may do next, with which argument; whether a body that was put away must be woken; and
what comes of the whole. The body itself is a coroutine with scopes; this is a fold over data.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from holdfast.codecs import json as codec
from holdfast.testing.simulator.asked import Asked
from holdfast.testing.simulator.functions import (
    CANCELLED,
    DRAWN_NAME,
    Ask,
    Await,
    Beside,
    Do,
    Durable,
    Each,
    Keep,
    Note,
    Recall,
    Sleep,
    Start,
    Stumble,
    begins_anew,
    caught,
    mixed,
)
from holdfast.testing.simulator.ports import BodyError
from holdfast.testing.simulator.steps import output_of

DECODE = codec.decoder(Any)
_NOW = codec.decoder(datetime)


class Next(msgspec.Struct, frozen=True):
    """What the function asks for next, in one of its threads of control.

    Attributes:
        is_waiting: It is recorded, and the function can only wait.
        is_step: Whether it is one; then it has an argument and an attempt.
        is_value: Whether it is recorded together with whatever comes next.
        argument: Of a step.
        attempt: Of a step.
    """

    key: str
    is_waiting: bool = False
    is_step: bool = False
    argument: object = None
    attempt: int = 1
    is_value: bool = False


class Fallen(msgspec.Struct, frozen=True):
    """The function raises: the type of the failure, and the key of the operation whose it was."""

    type: str
    key: str


class _Stuck(Exception):  # noqa: N818 - control flow
    def __init__(self, nexts: list[Next]) -> None:
        super().__init__(nexts)
        self.nexts = nexts


class _Fell(Exception):  # noqa: N818 - as above
    def __init__(self, fallen: Fallen) -> None:
        super().__init__(fallen)
        self.fallen = fallen


class Read(msgspec.Struct):
    """What came of a reading.

    Attributes:
        nexts: What is next, unless the function has ended.
        value: What it returns; None while it has not ended.
        sets: Variables it has set, None for one that is gone.
        fallen: What it raises.
        anew: The input with which the run begins anew instead.
        starts: Programs and inputs of the children it has asked for, by key.
        wrong: What cannot have been recorded so.
    """

    nexts: list[Next] = msgspec.field(default_factory=list[Next])
    value: object = None
    sets: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    fallen: Fallen | None = None
    anew: int | None = None
    starts: dict[str, tuple[str, object]] = msgspec.field(default_factory=dict[str, tuple[str, object]])
    wrong: list[str] = msgspec.field(default_factory=list[str])

    @property
    def has_ended(self) -> bool:
        """Whether the function has nothing more to ask for."""
        return not self.nexts

    @property
    def only_waits(self) -> bool:
        """Whether its body may be put away."""
        return bool(self.nexts) and all(each.is_waiting for each in self.nexts)


def read(
    durable: Durable, value: object, asked: Mapping[str, Asked], attempt: int, variables: Mapping[str, object]
) -> Read:
    """Read a function up to where it is.

    Args:
        durable: What it asks for.
        value: Its argument.
        asked: What is recorded.
        attempt: Of the function.
        variables: Of the branch, when it came there.
    """
    reader = _Reader(asked, attempt, variables)
    scope = _Scope("", None)
    given = reader.given
    try:
        end = reader.follow(durable.asks, value, scope)
        given.anew = begins_anew(durable, value)
        given.value = end if given.anew is None else None
    except _Stuck as stuck:
        given.nexts = stuck.nexts
    except _Fell as fell:
        given.fallen = fell.fallen
    given.sets = scope.sets
    # Patches have no place in a thread of control: one that was cancelled may have left them.
    left = {key for key, each in asked.items() if each.kind != "patch"} - reader.visited
    # A part that waits for its turn may have had it before: until what was before it is to be asked for anew.
    left = {key for key in left if not key.startswith(tuple(reader.unbegun))}
    if left:
        given.wrong.append(f"nobody can have asked for {sorted(left)}")
    return given


class _Scope:
    """A thread of control: its path, its numbers, and its variables."""

    def __init__(self, path: str, parent: "_Scope | None") -> None:
        self.path = path
        self.sets: dict[str, object] = {}
        self._parent = parent
        self._numbers: dict[str, int] = {}

    def key(self, name: str) -> str:
        self._numbers[name] = self._numbers.get(name, 0) + 1
        return f"{self.path}{name}#{self._numbers[name]}"

    def find(self, name: str, variables: Mapping[str, object]) -> object:
        if name in self.sets:
            return self.sets[name]
        return variables.get(name) if self._parent is None else self._parent.find(name, variables)


class _Reader:
    def __init__(self, asked: Mapping[str, Asked], attempt: int, variables: Mapping[str, object]) -> None:
        self._asked = asked
        self._attempt = attempt
        self._variables = variables
        self.visited: set[str] = set()
        self.unbegun: list[str] = []
        self.given = Read()

    def follow(self, asks: tuple[Ask, ...], value: object, scope: _Scope) -> object:
        for ask in asks:
            try:
                value = self._ask(ask, value, scope)
            except _Fell as fell:
                if not getattr(ask, "catches", False):
                    raise
                value = caught(fell.fallen.type)
        return value

    def _ask(self, ask: Ask, value: object, scope: _Scope) -> object:
        match ask:
            case Do():
                value = self._do(ask, value, scope)
            case Sleep():
                self._done(scope.key("sleep"))
            case Await():
                value = DECODE(self._done(scope.key(ask.signal)).output)
            case Start():
                key = scope.key(ask.program)
                self.given.starts[key] = (ask.program, value)
                value = DECODE(self._done(key).output)
            case Note():
                value = self._note(ask, value, scope)
            case Beside():
                value = self._beside(ask, value, scope)
            case Each():
                value = self._each(ask, value, scope)
            case _:
                value = self._plain(ask, value, scope)
        return value

    def find(self, key: str) -> Asked | None:
        self.visited.add(key)
        return self._asked.get(key)

    def _done(self, key: str) -> Asked:
        """What takes time, once it is done."""
        known = self.find(key)
        if known is None or known.state == "pending":
            raise _Stuck([Next(key, is_waiting=known is not None)])
        if known.state == "failed":
            raise _Fell(Fallen(known.failure, key))
        return known

    def _do(self, do: Do, value: object, scope: _Scope) -> object:
        key = scope.key(do.step.name)
        known = self.find(key)
        if known is None or known.state == "pending":
            attempt = 1 if known is None else known.attempt
            raise _Stuck([Next(key, known is not None, True, value, attempt)])  # noqa: FBT003 - as it is declared
        if known.state == "failed":
            raise _Fell(Fallen(known.failure, key))
        given = DECODE(known.output)
        if given != output_of(do.step.name, value):
            self.given.wrong.append(f"{key} gave {given!r} for {value!r}")
        return given

    def _note(self, note: Note, value: object, scope: _Scope) -> object:
        name = note.name if note.kind == "record" else note.kind
        key = f"patched:{note.name}" if note.kind == "patch" else scope.key(name)
        known = self.find(key)
        if known is None:
            raise _Stuck([Next(key, is_value=note.kind != "record")])
        if note.kind == "patch":
            return mixed(note.name, value, more=True)
        given = _NOW(known.output).isoformat() if note.kind == "now" else DECODE(known.output)
        return mixed(note.name, value, given)

    def _plain(self, ask: Ask, value: object, scope: _Scope) -> object:
        match ask:
            case Keep():
                scope.sets[DRAWN_NAME] = None if ask.deletes else value
            case Recall():
                return mixed("get", value, scope.find(DRAWN_NAME, self._variables))
            case Stumble() if self._attempt <= ask.attempts:
                raise _Fell(Fallen(BodyError.__name__, ""))
            case _:
                pass
        return value

    def _beside(self, beside: Beside, value: object, scope: _Scope) -> object:
        parts = [(asks, mixed(str(n), value)) for n, asks in enumerate(beside.parts)]
        work = _Work(self, scope, beside.kind, parts, limit=len(parts))
        if beside.kind == "race":
            work.close_if(any(each is not None for each in work.results))
            work.merge(scope)
            return _value(next(each for each in work.results if each is not None))
        if not beside.keeps_errors:
            work.close_if(any(isinstance(each, Fallen) for each in work.results))
            work.merge(scope)
            return [_value(each) for each in work.results if each is not None]
        work.close_if(False)  # noqa: FBT003 - whether it is enough
        work.merge(scope)
        return [_listed(each) for each in work.results]

    def _each(self, each: Each, value: object, scope: _Scope) -> object:
        parts = [(each.asks, mixed(str(n), value)) for n in range(each.items)]
        work = _Work(self, scope, "map", parts, limit=each.concurrency or each.items)
        enough = each.items if each.min_completed is None else each.min_completed
        most = max(each.items - enough, 0) if each.failures_max is None else each.failures_max
        fallen = [one for one in work.results if isinstance(one, Fallen)]
        done = sum(isinstance(one, _Came) for one in work.results)
        ended = done + len(fallen)
        # None is enough as soon as any has ended, too. Which were enough is recorded even where all were.
        work.close_if(len(fallen) > most or (ended > 0 and done >= enough and enough < each.items))
        work.merge(scope)
        needed = each.items - most if each.min_completed is None else each.min_completed
        if fallen and (len(fallen) > most or each.items - len(fallen) < needed):
            raise _Fell(fallen[0])
        return [_listed(one) for one in work.results]


class _Came(msgspec.Struct, frozen=True):
    """A part has ended with a value."""

    value: object


class _Work:
    """Parts side by side, read one after the other."""

    def __init__(
        self,
        reader: _Reader,
        scope: _Scope,
        kind: str,
        parts: Sequence[tuple[tuple[Ask, ...], object]],
        *,
        limit: int,
    ) -> None:
        self._reader = reader
        self._key = scope.key(kind)
        self._nexts: list[Next] = []
        self._sets: dict[int, dict[str, object]] = {}
        self.closed = reader.find(self._key)
        self.results: list[_Came | Fallen | None] = [None] * len(parts)
        live = 0
        for n in range(len(parts)) if self.closed is None else self.closed.ended:
            if live < limit:
                live += self._part(n, *parts[n], scope)
            else:
                reader.unbegun.append(f"{self._key}/{n}/")

    def _part(self, n: int, asks: tuple[Ask, ...], value: object, scope: _Scope) -> bool:
        """Read one; whether it has not ended."""
        inner = _Scope(f"{self._key}/{n}/", scope)
        try:
            self.results[n] = _Came(self._reader.follow(asks, value, inner))
            self._sets[n] = inner.sets
        except _Fell as fell:
            self.results[n] = fell.fallen
        except _Stuck as stuck:
            self._nexts += stuck.nexts
            return True
        return False

    def close_if(self, is_enough: bool) -> None:  # noqa: FBT001 - the only argument
        """Go on if all have ended, or it is recorded that it was enough."""
        if self.closed is None:
            if is_enough:
                # Until that is recorded, others may begin: who is faster is left to chance.
                raise _Stuck([Next(self._key), *self._nexts])
            if self._nexts:
                raise _Stuck(self._nexts)
        elif self._nexts:
            wrong = f"{self._key} was closed although of {self.closed.ended} {self._nexts} is open"
            self._reader.given.wrong.append(wrong)
            raise _Stuck(self._nexts)

    def merge(self, scope: _Scope) -> None:
        for n in sorted(self._sets):
            scope.sets.update(self._sets[n])


def _value(each: _Came | Fallen) -> object:
    if isinstance(each, Fallen):
        raise _Fell(each)
    return each.value


def _listed(each: _Came | Fallen | None) -> object:
    if each is None:
        return CANCELLED
    return caught(each.type) if isinstance(each, Fallen) else each.value


def children_of(durable: Durable) -> Iterator[str]:
    """Names of the programs that it may start."""
    return (ask.program for ask in durable.all() if isinstance(ask, Start))
