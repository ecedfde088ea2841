"""A run's state to bytes and back: a cached fold, so that recovery need not replay a long journal.

Each distinct payload stands once, in a table that the rest points into: branches share values. A snapshot that
cannot be read is no error, only a cache that does not help: the journal is the truth.
"""

from typing import Any

import msgspec

from holdfast.core.entries import (
    Arrival,
    Child,
    Failure,
    OperationKind,
    Paused,
    RunBlocked,
    RunCancelled,
    Taken,
    Wait,
)
from holdfast.core.evolve import recount
from holdfast.core.run import (
    NO_OPERATIONS,
    NO_VARIABLES,
    Branch,
    BranchStatus,
    Operation,
    OperationStatus,
    Run,
    RunStatus,
    Value,
)

Reference = int | dict[str, Any]
"""Index into the table of payloads, or by branch the references of a value that a join has made."""
_VERSION = 3


class _OperationState(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    key: str
    kind: OperationKind
    position: int
    status: OperationStatus
    attempt: int
    output: int
    failure: Failure | None
    budgets: dict[str, int]
    due_at_ms: int | None
    left_ms: int | None
    since_ms: int
    wait: Wait | None
    child: Child | None
    ended: tuple[int, ...]
    heartbeat: bytes | None
    taken: Taken | None


class _BranchState(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    id: str
    parent: str | None
    status: BranchStatus
    at: Arrival | None
    since_ms: int
    attempt: int
    due_at_ms: int | None
    left_ms: int | None
    pause: Paused | None
    paused_at_ms: int
    value: Reference
    variables: dict[str, int]
    visits: dict[str, int]
    budgets: dict[str, int]
    failure: Failure | None
    was: BranchStatus | None
    operations: list[_OperationState]
    sets: dict[str, int]
    heartbeat: bytes | None
    progress: bytes | None
    culprit: str


class _RunState(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    payloads: list[bytes]
    workflow: str
    fingerprint: str
    input: int
    status: RunStatus
    position: int
    branches: list[_BranchState]
    branches_started: int
    output_branch: str | None
    failure: Failure | None
    created_at_ms: int
    updated_at_ms: int
    joining: list[str]
    waits: list[tuple[str, str]]
    timeout_ms: int | None
    deadline_ms: int | None
    deadline_left_ms: int | None
    pause: Paused | None
    paused_at_ms: int
    cancel: RunCancelled | None
    blocked: RunBlocked | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_RunState)


def encode_run(run: Run) -> bytes:
    """The state of `run` at its position."""
    table: dict[bytes, int] = {}
    branches = [_branch_state(branch, table) for branch in run.branches.values()]
    given = table.setdefault(run.input, len(table))
    state = _RunState(
        _VERSION,
        list(table),
        run.workflow,
        run.fingerprint,
        given,
        run.status,
        run.position,
        branches,
        run.branches_started,
        run.output_branch,
        run.failure,
        run.created_at_ms,
        run.updated_at_ms,
        list(run.joining),
        list(run.waits.items()),
        run.timeout_ms,
        run.deadline_ms,
        run.deadline_left_ms,
        run.pause,
        run.paused_at_ms,
        run.cancel,
        run.blocked,
    )
    return _encoder.encode(state)


def decode_run(run_id: str, data: bytes) -> Run | None:
    """The run as it was, or None where this version cannot read the snapshot."""
    try:
        state = _decoder.decode(data)
        return _run(run_id, state) if state.version == _VERSION else None
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError):
        return None


def _run(run_id: str, state: _RunState) -> Run:
    run = Run(run_id)
    payloads = state.payloads
    run.workflow, run.fingerprint = state.workflow, state.fingerprint
    run.input = payloads[state.input]
    run.status, run.position = state.status, state.position
    for each in state.branches:
        run.branches[each.id] = _branch(each, payloads)
    run.joining, run.waits = dict.fromkeys(state.joining), dict(state.waits)
    run.pause, run.paused_at_ms, run.cancel = state.pause, state.paused_at_ms, state.cancel
    run.blocked = state.blocked
    run.timeout_ms, run.deadline_ms = state.timeout_ms, state.deadline_ms
    run.deadline_left_ms = state.deadline_left_ms
    recount(run)
    run.branches_started = state.branches_started
    run.output_branch, run.failure = state.output_branch, state.failure
    run.created_at_ms, run.updated_at_ms = state.created_at_ms, state.updated_at_ms
    return run


def _branch_state(branch: Branch, table: dict[bytes, int]) -> _BranchState:
    variables = {name: table.setdefault(payload, len(table)) for name, payload in branch.variables.items()}
    return _BranchState(
        branch.id,
        branch.parent,
        branch.status,
        branch.at,
        branch.since_ms,
        branch.attempt,
        branch.due_at_ms,
        branch.left_ms,
        branch.pause,
        branch.paused_at_ms,
        _refer(branch.value, table),
        variables,
        branch.visits,
        branch.budgets,
        branch.failure,
        branch.was,
        [_operation_state(each, table) for each in branch.operations.values()],
        {name: table.setdefault(payload, len(table)) for name, payload in branch.sets.items()},
        branch.heartbeat,
        branch.progress,
        branch.culprit,
    )


def _operation_state(operation: Operation, table: dict[bytes, int]) -> _OperationState:
    return _OperationState(
        operation.key,
        operation.kind,
        operation.position,
        operation.status,
        operation.attempt,
        table.setdefault(operation.output, len(table)),
        operation.failure,
        operation.budgets,
        operation.due_at_ms,
        operation.left_ms,
        operation.since_ms,
        operation.wait,
        operation.child,
        operation.ended,
        operation.heartbeat,
        operation.taken,
    )


def _operation(state: _OperationState, payloads: list[bytes]) -> Operation:
    operation = Operation(state.key, state.kind, state.position)
    operation.status, operation.attempt = state.status, state.attempt
    operation.output, operation.failure = payloads[state.output], state.failure
    operation.budgets, operation.since_ms = state.budgets, state.since_ms
    operation.due_at_ms, operation.left_ms = state.due_at_ms, state.left_ms
    operation.wait, operation.child, operation.ended = state.wait, state.child, state.ended
    operation.heartbeat, operation.taken = state.heartbeat, state.taken
    return operation


def _branch(state: _BranchState, payloads: list[bytes]) -> Branch:
    branch = Branch(state.id, None, _value(state.value, payloads))
    branch.parent, branch.status, branch.at = state.parent, state.status, state.at
    branch.since_ms, branch.attempt = state.since_ms, state.attempt
    branch.pause, branch.paused_at_ms = state.pause, state.paused_at_ms
    branch.due_at_ms, branch.left_ms, branch.was = state.due_at_ms, state.left_ms, state.was
    branch.variables = {name: payloads[index] for name, index in state.variables.items()}
    branch.visits, branch.budgets, branch.failure = state.visits, state.budgets, state.failure
    branch.operations = {each.key: _operation(each, payloads) for each in state.operations} or NO_OPERATIONS
    branch.sets = {name: payloads[index] for name, index in state.sets.items()} or NO_VARIABLES
    branch.heartbeat, branch.progress, branch.culprit = state.heartbeat, state.progress, state.culprit
    return branch


def _refer(value: Value, table: dict[bytes, int]) -> Reference:
    if isinstance(value, bytes):
        return table.setdefault(value, len(table))
    return {name: _refer(part, table) for name, part in value.items()}


def _value(reference: Reference, payloads: list[bytes]) -> Value:
    if isinstance(reference, int):
        return payloads[reference]
    return {name: _value(part, payloads) for name, part in reference.items()}
