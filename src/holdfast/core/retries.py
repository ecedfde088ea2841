"""Failed attempts (semantics rows 20, 23).

attempting --(AttemptFailed, a policy fits and has budget)-->  backoff: RetryScheduled
attempting --(AttemptFailed, none does)-->                     failed, and the run with it: RunFailed
any other  --(AttemptFailed)-->                                unchanged, the event is stale
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from holdfast.core.entries import Failure, RetryScheduled
from holdfast.core.events import AttemptFailed
from holdfast.core.operated import following
from holdfast.core.turn import Turn
from holdfast.definition.policies import Retry


class NextRetry(NamedTuple):
    """After how long something that failed is tried again, and under which policy's budget that counts."""

    pattern: str
    delay_ms: int


def next_retry(
    policies: Iterable[Retry], failure: Failure, budgets: Mapping[str, int], chance: float
) -> NextRetry | None:
    """What the first policy that fits a failure says; None where none does, or its budget is used up.

    Args:
        policies: In order.
        failure: What is answered.
        budgets: Retries used so far, by the policies' patterns.
        chance: What jitter is made of, in [0, 1).
    """
    types = failure.types or (failure.type,)
    policy = next((policy for policy in policies if policy.matches(types)), None)
    used = 0 if policy is None else budgets.get(policy.pattern, 0)
    if policy is None or used >= policy.max_retries:
        return None
    return NextRetry(policy.pattern, policy.delay_ms(retry=used + 1, chance=chance))


def attempt_failed(turn: Turn, event: AttemptFailed) -> None:
    """Record the next attempt and its delay, or the end of the run."""
    branch = turn.current(event)
    if branch is None:
        return
    failure = event.failure
    retry = next_retry(turn.workflow.retry(event.step), failure, branch.budgets, event.chance)
    if retry is None:
        turn.fail(branch.id, branch.at, event.attempt, failure, event.operation)
        return
    turn.move(branch, following(branch, event.operation))
    turn.entries.append(
        RetryScheduled(
            branch=event.branch,
            step=event.step,
            visit=event.visit,
            attempt=event.attempt + 1,
            delay_ms=retry.delay_ms,
            pattern=retry.pattern,
            failure=failure,
            operation=event.operation,
        )
    )
