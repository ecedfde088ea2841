"""How entries about a body's operations change its branch: the part of `evolve` for them.

Whatever comes from a body shows that it lives, and what its operations give wakes it: a suspended branch is
active again after each of these entries but the one that suspends it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import assert_never

from holdfast.core.clocks import (
    arm_operation,
    disarm,
    disarm_operation,
    is_frozen,
    pending,
    rearm,
    start_clock,
    stop_clock,
)
from holdfast.core.entries import (
    Entry,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationKind,
    OperationRetried,
    Reported,
    ScopesClosed,
    StepSuspended,
)
from holdfast.core.run import (
    NO_OPERATIONS,
    NO_VARIABLES,
    PENDING,
    SCOPE,
    Branch,
    Operation,
    Run,
    place_of,
)

_ASKS_NOTHING = frozenset({"scopes", "patch"})
"""Kinds of operations that are none of what a body does with a value it was given."""

NOTHING_CLOSED: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def operated(run: Run, entry: Operated, at_ms: int) -> None:
    """Apply one entry about what the body of a step does."""
    branch = run.branches[entry.branch]
    match entry:
        case OperationCompleted():
            operation = _done(run, branch, entry)
            operation.status = "completed"
            operation.output = entry.output
            operation.taken = entry.taken
        case OperationFailed():
            operation = _done(run, branch, entry)
            operation.status = "failed"
            operation.failure = entry.failure
        case OperationBegun():
            _begun(run, branch, entry, at_ms)
        case OperationRetried():
            _retried(run, branch, entry, at_ms)
        case ScopesClosed():
            _closed(run, branch, entry)
        case Reported():
            _reported(run, branch, entry, at_ms)
        case StepSuspended():
            disarm(run, branch)
            branch.status, branch.due_at_ms, branch.left_ms = "suspended", None, None
            rearm(run, branch)
            return
        case _:
            assert_never(entry)
    if branch.status == "suspended":
        branch.status = "active"
        run.active += not run.holds(branch)
        rearm(run, branch)


def forget_all(branch: Branch, run: Run) -> None:
    """The branch leaves its step: operations are for that one visit."""
    if branch.operations:
        for operation in pending(branch):
            _settle(run, branch, operation)
    branch.operations, branch.sets = NO_OPERATIONS, NO_VARIABLES
    branch.heartbeat = branch.progress = None


def forget_from(run: Run, branch: Branch, key: str) -> None:
    """Drop an operation that is to be asked for anew, and what was asked for because of what it gave.

    That is whatever came later in its own scope and in those around it, parallel work included. What ran beside
    it knew nothing of it, and stays.
    """
    for operation in following(branch, key):
        _settle(run, branch, operation)
        del branch.operations[operation.key]


def following(branch: Branch, key: str) -> list[Operation]:
    """The operation of that key, if it is known, and those that `forget_from` forgets with it."""
    culprit = branch.operations.get(key)
    if culprit is None:
        return []
    later = [each for each in branch.operations.values() if each.position >= culprit.position]
    return [each for each in later if not _is_beside(key, each.key)]


def _is_beside(key: str, other: str) -> bool:
    """Whether two operations are of two parts of one parallel work: neither can follow from the other."""
    for number, (mine, theirs) in enumerate(zip(key.split(SCOPE), other.split(SCOPE), strict=False)):
        if mine != theirs:
            # Keys go from work to part and on: `gather#1/0/charge#1`.
            return number % 2 == 1
    return False


def within(branch: Branch, key: str, ended: tuple[int, ...]) -> list[Operation]:
    """The operations of those parts of the parallel work `key` that have not ended."""
    return [each for each in branch.operations.values() if is_lost(each.key, key, ended)]


def is_lost(operation: str, key: str, ended: tuple[int, ...]) -> bool:
    """Whether the key of an operation is of a part of the parallel work `key` that has not ended."""
    inside = key + SCOPE
    return operation.startswith(inside) and int(operation[len(inside) :].partition(SCOPE)[0]) not in ended


def given_back(run: Run, entries: Sequence[Entry]) -> list[Operation]:
    """Waits whose signals go back to the inbox with `entries`, and are received by whoever waits next.

    They are of parts that lost, and had not gone on from there: nobody has seen what they received.

    Args:
        run: The state before.
        entries: What is about to be recorded.
    """
    found: dict[str, Operation] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, ScopesClosed):
            continue
        branch = run.branches[entry.branch]
        for operation in within(branch, entry.key, entry.ended):
            if operation.taken is not None and _is_last(branch, operation, entries[:number]):
                # Work around it may be closed by the same entries: it is given back once.
                found[place_of(branch.id, operation.key)] = operation
    return list(found.values())


def _is_last(branch: Branch, operation: Operation, before: Sequence[Entry]) -> bool:
    """Whether its part has asked for nothing after it, by the state or by the entries `before` its closing."""
    after = (each for each in following(branch, operation.key) if each is not operation)
    if not all(each.kind in _ASKS_NOTHING for each in after):
        return False
    return not any(_asks(entry, branch, operation.key) for entry in before)


def _asks(entry: Entry, branch: Branch, key: str) -> bool:
    """Whether an entry is the first of an operation that may follow from the one of that key."""
    match entry:
        case OperationBegun() | OperationCompleted() | OperationFailed():
            kind = entry.kind
        case OperationRetried() | Reported(kind="heartbeat"):
            kind = "step"
        case _:
            return False
    is_new = entry.branch == branch.id and bool(entry.key) and entry.key not in branch.operations
    return is_new and kind not in _ASKS_NOTHING and not _is_beside(key, entry.key)


def is_closed(branch: Branch, key: str, closed: Mapping[str, tuple[int, ...]] = NOTHING_CLOSED) -> bool:
    """Whether an operation or a scope is of parallel work that was cancelled, by the journal or `closed`."""
    parts = key.split(SCOPE)
    for n in range(1, len(parts) - 1, 2):
        around, number = SCOPE.join(parts[:n]), int(parts[n])
        known = branch.operations.get(around)
        ended = closed.get(around) if known is None else known.ended
        if ended is not None and number not in ended:
            return True
    return False


def put_away(run: Run, branch: Branch, at_ms: int) -> None:
    """The run is over: nothing is awaited any more, and clocks keep what is left for a run that is reopened."""
    for operation in pending(branch):
        place = place_of(branch.id, operation.key)
        disarm_operation(run, branch, operation)
        run.waits.pop(place, None)
        run.children.pop(place, None)
        stop_clock(operation, at_ms)


def take_up(run: Run, branch: Branch, at_ms: int) -> None:
    """The run is reopened: what its body waited for is awaited again. Children were cancelled: others start."""
    for operation in pending(branch):
        if operation.status == "child":
            del branch.operations[operation.key]
            continue
        start_clock(operation, at_ms)
        await_operation(run, branch, operation)


def await_operation(run: Run, branch: Branch, operation: Operation) -> None:
    """Note what an operation that is not done waits for."""
    place = place_of(branch.id, operation.key)
    if operation.status == "waiting" and operation.wait is not None:
        run.waits[place] = operation.wait.signal
    elif operation.status == "child" and operation.child is not None:
        run.children[place] = operation.child
    arm_operation(run, branch, operation)


def _operation(run: Run, branch: Branch, key: str, kind: OperationKind) -> Operation:
    """The operation as known, or a new one."""
    operation = branch.operations.get(key)
    if operation is None:
        if branch.operations is NO_OPERATIONS:
            branch.operations = {}
        operation = branch.operations[key] = Operation(key, kind, run.position + 1)
    return operation


def _settle(run: Run, branch: Branch, operation: Operation) -> None:
    """An operation waits for nothing any more."""
    if operation.status in PENDING:
        place = place_of(branch.id, operation.key)
        run.timers.pop(place, None)
        run.waits.pop(place, None)
        run.children.pop(place, None)
        operation.due_at_ms = operation.left_ms = None


def _done(run: Run, branch: Branch, entry: OperationCompleted | OperationFailed) -> Operation:
    operation = _operation(run, branch, entry.key, entry.kind)
    _settle(run, branch, operation)
    operation.heartbeat = None
    if entry.sets:
        branch.sets = {**branch.sets, **entry.sets}
    return operation


def _begun(run: Run, branch: Branch, entry: OperationBegun, at_ms: int) -> None:
    operation = _operation(run, branch, entry.key, entry.kind)
    operation.wait, operation.child, operation.since_ms = entry.wait, entry.child, at_ms
    if entry.kind == "child":
        operation.status = "child"
    else:
        operation.status = "sleeping" if entry.kind == "sleep" else "waiting"
    if entry.wait is not None:
        for_ms = entry.wait.for_ms
        operation.due_at_ms = entry.wait.until_ms if for_ms is None else at_ms + for_ms
    if entry.sets:
        branch.sets = {**branch.sets, **entry.sets}
    if is_frozen(run, branch):
        stop_clock(operation, at_ms)
    await_operation(run, branch, operation)


def _retried(run: Run, branch: Branch, entry: OperationRetried, at_ms: int) -> None:
    operation = _operation(run, branch, entry.key, "step")
    operation.budgets[entry.pattern] = operation.budgets.get(entry.pattern, 0) + 1
    operation.failure, operation.attempt = entry.failure, entry.attempt
    operation.since_ms, operation.due_at_ms = at_ms, at_ms + entry.delay_ms
    _owe(run, branch, operation, at_ms)
    if entry.sets:
        branch.sets = {**branch.sets, **entry.sets}


def _owe(run: Run, branch: Branch, operation: Operation, at_ms: int) -> None:
    operation.status, operation.left_ms = "backoff", None
    if is_frozen(run, branch):
        stop_clock(operation, at_ms)
    await_operation(run, branch, operation)


def _closed(run: Run, branch: Branch, entry: ScopesClosed) -> None:
    for operation in within(branch, entry.key, entry.ended):
        _settle(run, branch, operation)
        del branch.operations[operation.key]
    _operation(run, branch, entry.key, "scopes").ended = entry.ended


def _reported(run: Run, branch: Branch, entry: Reported, at_ms: int) -> None:
    if entry.kind == "progress":
        branch.progress = entry.payload
    elif not entry.key:
        branch.heartbeat = entry.payload
    else:
        operation = branch.operations.get(entry.key)
        if operation is None:
            # The first that is heard of it: its first attempt is under way, and owed if that is lost.
            operation = _operation(run, branch, entry.key, "step")
            operation.since_ms = operation.due_at_ms = at_ms
            _owe(run, branch, operation, at_ms)
        operation.heartbeat = entry.payload
