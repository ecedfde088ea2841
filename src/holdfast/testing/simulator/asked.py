"""What the bodies of a run have asked for, kept from its journal by rules that are not the engine's."""

from collections.abc import Iterator, Mapping

from holdfast.core.entries import (
    Child,
    Entry,
    Moved,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RetryScheduled,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    ScopesClosed,
    StepSuspended,
)
from holdfast.core.run import ATTEMPTING, Run, place_of

TAKES_TIME = ("sleep", "wait_signal", "child")
ENGINE_STATUS = {"sleep": "sleeping", "wait_signal": "waiting", "child": "child", "step": "backoff"}


class Asked:
    """One operation, as the journal has it.

    Attributes:
        key, kind: Its name.
        position: Of its first entry.
        state: `pending`, `done` or `failed`; a step that is to be tried again is pending, too.
        attempt: That is owed or was last.
        output, failure: What came of it: the encoded output, the type of the failure.
        child: Which it has started.
        signal: Which it waits for.
        seq: Number of the message that ended it.
        ended: Parts that had ended, for parallel work.
    """

    def __init__(self, key: str, kind: str, position: int) -> None:
        """One that is done, until something else is said."""
        self.key = key
        self.kind = kind
        self.position = position
        self.state = "done"
        self.attempt = 1
        self.output = b""
        self.failure = ""
        self.child: Child | None = None
        self.signal = ""
        self.seq = 0
        self.ended: tuple[int, ...] = ()


class Asking:
    """All of them, by branch and key."""

    def __init__(self) -> None:
        """Nothing was asked for."""
        self._asked: dict[str, dict[str, Asked]] = {}
        self._culprit = ("", "")
        self._back: list[int] = []

    def of(self, branch: str) -> Mapping[str, Asked]:
        """What the step that the branch is at has asked for."""
        return self._asked.get(branch, {})

    def pending(self) -> Iterator[tuple[str, Asked]]:
        """Places and operations that are not done."""
        for branch, asked in self._asked.items():
            for key, each in asked.items():
                if each.state == "pending":
                    yield place_of(branch, key), each

    def children(self) -> dict[str, Child]:
        """Children that are awaited, by place."""
        return {place: each.child for place, each in self.pending() if each.child is not None}

    def take_back(self) -> list[int]:
        """Numbers of the signals that were given back since this was asked last."""
        back, self._back = self._back, []
        return back

    def wrong(self, entry: Entry, run: Run) -> list[str]:
        """Why such an entry cannot be now (invariants 13 to 16)."""
        if not isinstance(entry, Operated):
            return []
        branch = run.branches.get(entry.branch)
        at = None if branch is None else branch.at
        is_there = at is not None and (at.step, at.visit) == (entry.step, entry.visit)
        if branch is None or not is_there or branch.status not in ATTEMPTING:
            return [f"no branch is active there: {entry!r}"]
        if isinstance(entry, StepSuspended | Reported):
            return []
        known = self.of(entry.branch).get(entry.key)
        if self._is_cancelled(entry.branch, entry.key):
            return [f"of parallel work that was cancelled: {entry!r}"]
        if known is not None and (known.state != "pending" or isinstance(entry, OperationBegun | ScopesClosed)):
            return [f"{entry.key} is {known.state} already: {entry!r}"]
        return _odd(entry, known)

    def _is_cancelled(self, branch: str, key: str) -> bool:
        parts = key.split("/")
        for n in range(1, len(parts) - 1, 2):
            around = self.of(branch).get("/".join(parts[:n]))
            if around is not None and int(parts[n]) not in around.ended:
                return True
        return False

    def see(self, entry: Entry, position: int) -> None:
        """Take in an entry."""
        match entry:
            case OperationBegun() | OperationCompleted() | OperationFailed() | OperationRetried():
                self._operated(entry, position)
            case ScopesClosed():
                self._close(entry, position)
            case Reported(kind="heartbeat") if entry.key and entry.key not in self.of(entry.branch):
                self._find(entry.branch, entry.key, "step", position).state = "pending"
            case RetryScheduled():
                self._forget(entry.branch, entry.operation)
            case RunReopened():
                self._reopen()
            case RunFailed():
                self._culprit = (entry.branch, entry.operation)
            case RunCancelled() | RunCompleted():
                self._asked.clear()
            case _ if isinstance(entry, Moved):
                self._asked.pop(entry.branch, None)
            case _:
                pass

    def _find(self, branch: str, key: str, kind: str, position: int) -> Asked:
        mine = self._asked.setdefault(branch, {})
        if key not in mine:
            mine[key] = Asked(key, kind, position)
        return mine[key]

    def _operated(
        self, entry: OperationBegun | OperationCompleted | OperationFailed | OperationRetried, position: int
    ) -> None:
        kind = "step" if isinstance(entry, OperationRetried) else entry.kind
        asked = self._find(entry.branch, entry.key, kind, position)
        match entry:
            case OperationBegun():
                asked.state, asked.child = "pending", entry.child
                asked.signal = "" if entry.wait is None else entry.wait.signal
            case OperationCompleted():
                asked.state, asked.output, asked.seq = "done", entry.output, entry.seq
            case OperationFailed():
                asked.state, asked.failure = "failed", entry.failure.type
            case OperationRetried():
                asked.state, asked.attempt = "pending", entry.attempt

    def _close(self, entry: ScopesClosed, position: int) -> None:
        mine = self._asked.setdefault(entry.branch, {})
        inside = f"{entry.key}/"
        inner = [key for key in mine if key.startswith(inside)]
        lost = [key for key in inner if int(key.removeprefix(inside).split("/")[0]) not in entry.ended]
        self._back += [mine[key].seq for key in lost if mine[key].seq and self._is_last(mine[key], lost, mine)]
        for key in lost:
            del mine[key]
        self._find(entry.branch, entry.key, "scopes", position).ended = entry.ended

    def _is_last(self, wait: Asked, lost: list[str], mine: Mapping[str, Asked]) -> bool:
        """Whether it is a wait for a signal, and its thread of control has asked for nothing after it."""
        later = [mine[key] for key in lost if mine[key].position > wait.position]
        asking = [each.key for each in later if each.kind not in {"scopes", "patch"}]
        thread = _thread(wait.key)
        return wait.kind == "wait_signal" and not any(_are_one(thread, _thread(key)) for key in asking)

    def _forget(self, branch: str, key: str) -> None:
        """What came after it, in its own thread of control, in those that this opened, and around it."""
        culprit = self.of(branch).get(key)
        if culprit is None:
            return
        for other in list(self.of(branch).values()):
            if other.position >= culprit.position and _are_one(_thread(key), _thread(other.key)):
                del self._asked[branch][other.key]

    def _reopen(self) -> None:
        """Children that were awaited were cancelled: others start. What failed is asked for anew."""
        for asked in self._asked.values():
            for key in [
                key for key, each in asked.items() if each.child is not None and each.state == "pending"
            ]:
                del asked[key]
        self._forget(*self._culprit)

    def differences(self, run: Run) -> list[str]:
        """Where the fold of the journal says otherwise."""
        wrong: list[str] = []
        for branch in run.branches.values() if not run.is_over else ():
            theirs = {key: (each.kind, each.status, each.attempt) for key, each in branch.operations.items()}
            mine = {key: (each.kind, _status(each), each.attempt) for key, each in self.of(branch.id).items()}
            if theirs != mine:
                wrong.append(f"{branch.id} has asked for {theirs}, by the entries {mine}")
        return wrong


def _status(asked: Asked) -> str:
    if asked.state == "pending":
        return ENGINE_STATUS[asked.kind]
    return "completed" if asked.state == "done" else "failed"


def _thread(key: str) -> list[str]:
    """The thread of control that asked for it: parallel work and number of the part, from outside inwards."""
    return key.split("/")[:-1]


def _are_one(mine: list[str], theirs: list[str]) -> bool:
    """Whether one of two threads is the other, or around it: what is later in one follows from the other.

    So it is of two parallel works that one thread began one after the other. Threads are apart only where they
    are of different parts of the same work.
    """
    differing = (n for n, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other)
    return next(differing, 0) % 2 == 0


def _odd(
    entry: OperationBegun | OperationCompleted | OperationFailed | OperationRetried | ScopesClosed,
    known: Asked | None,
) -> list[str]:
    if isinstance(entry, ScopesClosed):
        return []
    if isinstance(entry, OperationRetried):
        attempt = 1 if known is None else known.attempt
        return [] if entry.attempt == attempt + 1 else [f"the attempt before was number {attempt}: {entry!r}"]
    if known is not None and known.kind != entry.kind:
        return [f"it was a {known.kind}: {entry!r}"]
    is_detached = entry.kind == "child" and isinstance(entry, OperationCompleted) and not entry.seq
    if known is None and not isinstance(entry, OperationBegun) and entry.kind in TAKES_TIME and not is_detached:
        return [f"it has not begun: {entry!r}"]
    return []
