"""Failed attempts (semantics rows 20, 23).

attempting --(AttemptFailed, a policy fits and has budget)-->  backoff: RetryScheduled
attempting --(AttemptFailed, none does)-->                     failed, and the run with it: RunFailed
any other  --(AttemptFailed)-->                                unchanged, the event is stale
"""

from holdfast.core.entries import RetryScheduled
from holdfast.core.events import AttemptFailed
from holdfast.core.operated import following
from holdfast.core.turn import Turn


def attempt_failed(turn: Turn, event: AttemptFailed) -> None:
    """Record the next attempt and its delay, or the end of the run."""
    branch = turn.current(event)
    if branch is None:
        return
    failure = event.failure
    types = failure.types or (failure.type,)
    policy = next((p for p in turn.workflow.retry(event.step) if p.matches(types)), None)
    used = 0 if policy is None else branch.budgets.get(policy.pattern, 0)
    if policy is None or used >= policy.max_retries:
        turn.fail(branch.id, branch.at, event.attempt, failure, event.operation)
        return
    turn.move(branch, following(branch, event.operation))
    turn.entries.append(
        RetryScheduled(
            branch=event.branch,
            step=event.step,
            visit=event.visit,
            attempt=event.attempt + 1,
            delay_ms=policy.delay_ms(retry=used + 1, chance=event.chance),
            pattern=policy.pattern,
            failure=failure,
            operation=event.operation,
        )
    )
