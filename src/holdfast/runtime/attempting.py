"""Steps of a durable function: attempt after attempt, each committed before the next."""

import asyncio

from holdfast.core.events import AttemptFailed, AttemptSucceeded, OperationRaised
from holdfast.core.run import PENDING, Operation
from holdfast.definition.policies import Retry
from holdfast.runtime.body import Body
from holdfast.runtime.calls import Invocation
from holdfast.runtime.context import CURRENT, TaskContext


async def attempted(body: Body, key: str, invocation: Invocation, retry: tuple[Retry, ...]) -> Operation:
    """Make attempts of a step until one succeeds, or none is left; gives it as recorded."""
    while True:
        operation = body.branch.operations.get(key)
        if operation is not None and operation.status not in PENDING:
            return operation
        if operation is not None and not _is_due(body, operation):
            await _backed_off(body, operation)
            continue
        await body.may_begin()
        try:
            outcome = await _attempt(body, key, invocation)
        except asyncio.CancelledError:
            body.cut_off(key, "step")
            raise
        if isinstance(outcome, AttemptSucceeded):
            await body.succeed(key, "step", outcome.output)
        else:
            sets, chance = body.take_sets(), outcome.chance
            await body.record(OperationRaised(*body.place, key, "step", outcome.failure, retry, chance, sets))


async def _attempt(body: Body, key: str, invocation: Invocation) -> AttemptSucceeded | AttemptFailed:
    known = body.branch.operations.get(key)
    context = TaskContext(
        body.around.facts,
        body.at,
        _operation=key,
        _operation_attempt=1 if known is None else known.attempt,
        _heartbeat=None if known is None else known.heartbeat,
    )
    before = CURRENT.set(context)
    try:
        with body.outside():
            return await body.host.attempts.make(body.at, invocation, invocation.argument)
    finally:
        CURRENT.reset(before)


def _is_due(body: Body, operation: Operation) -> bool:
    return operation.due_at_ms is not None and operation.due_at_ms <= body.host.now_ms()


async def _backed_off(body: Body, operation: Operation) -> None:
    """Wait for the next attempt; whoever replays a body that was put away meanwhile looks again."""
    key, due_at_ms = operation.key, operation.due_at_ms
    if due_at_ms is None:
        # A pause keeps its clock: nothing is recorded of it when that ends, so its own waking would not come.
        await body.may_begin()
        return
    timer = body.host.call_later(max(due_at_ms - body.host.now_ms(), 0), lambda: body.wake(key))
    try:
        await body.block(key)
    finally:
        timer.cancel()
