"""Why a run does not go on, or that it does: one typed reason for every run (semantics row 55).

Pure: everything it needs is read before. A run without a reason does not exist; a property test holds that over
all states that runs can reach.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from holdfast.core.clocks import pending
from holdfast.core.operations import DEFINITION_CHANGED
from holdfast.core.run import OWING, Branch, Operation, Run
from holdfast.runtime.views import Waiting, instant, waiting_of
from holdfast.stores.records import DEFAULT_QUEUE, ENDED, RunRecord, WorkerRecord

Reason = Literal[
    "over",
    "blocked",
    "running",
    "lease",
    "pause",
    "signal",
    "child",
    "timer",
    "backoff",
    "join",
    "no_worker",
    "missing_task",
    "due",
]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a run waits for, and who must act.

    Attributes:
        reason: `over`; `blocked` (it cannot be driven); `running` (a worker makes an attempt); `lease` (the
            worker that holds it shows no sign of life); `pause`, `signal`, `child`, `timer`, `backoff`, `join`
            (what its branches wait for, the dominant one); `no_worker` (it is due, and no live worker knows its
            workflow); `missing_task` (no worker has the tasks it was started with); `due` (the next free worker
            takes it).
        detail: One sentence for people.
        action: Who must act, and how; "" where it goes on by itself.
        branch, step: Whose wait it is; "" where it is that of the run.
        operation: Key of what the body of that step waits for or tries again; "" for none.
        child: Id of the run that is waited for, for that reason; explaining that one tells more.
        due_at: When it goes on by itself, or None.
    """

    run_id: str
    status: str
    reason: Reason
    detail: str
    action: str
    branch: str = ""
    step: str = ""
    operation: str = ""
    child: str | None = None
    due_at: datetime | None = None


def explain(
    record: RunRecord,
    run: Run | None,
    workers: Sequence[WorkerRecord],
    now_ms: int,
    *,
    why_blocked: str = "",
    missing_tasks: Sequence[str] = (),
    child: RunRecord | None = None,
) -> Explanation:
    """The reason for a run's state.

    Args:
        record: Its row.
        run: Its fold; None where that is not needed or cannot be: over, unreadable.
        workers: Those that are alive.
        now_ms: By the store's clock.
        why_blocked: For a blocked run.
        missing_tasks: What its structure calls and the workers here do not have.
        child: Row of the run that it waits for, where that is known to be the reason.
    """
    known = any(record.workflow in worker.workflows for worker in workers)
    if record.status in ENDED:
        action = "a retry lets it go on at the step that failed" if record.status == "failed" else ""
        return _reason(record, "over", f"it is {record.status}", action)
    if record.status == "blocked" or run is None:
        return _blocked(record, run, why_blocked)
    if record.worker is not None:
        return _held(record, run, workers, now_ms, child)
    waits = waiting_of(run)
    if waits and (record.due_at_ms is None or record.due_at_ms > now_ms):
        return _waits(record, run, waits[0], child, known=known)
    return _due(record, now_ms, missing_tasks, known=known)


def _blocked(record: RunRecord, run: Run | None, why: str) -> Explanation:
    known = None if run is None else run.blocked
    then = "then `holdfast resume` drives it again, and `holdfast cancel` ends it"
    if known is None or known.detail != why or known.code != DEFINITION_CHANGED:
        return _reason(record, "blocked", why, f"mend that; {then}")
    action = (
        f"deploy code that fits what is recorded, or keep the old way for this run with ctx.patched; {then}"
    )
    return _reason(record, "blocked", why, action, branch=known.branch, step=known.step)


def _due(record: RunRecord, now_ms: int, missing_tasks: Sequence[str], *, known: bool) -> Explanation:
    if missing_tasks:
        names = ", ".join(missing_tasks)
        detail = f"it was started with a workflow that calls {names}, which no worker here has"
        return _reason(record, "missing_task", detail, f"deploy {names} again, or cancel it")
    if not known:
        detail = f"it is due, and no live worker knows workflow {record.workflow!r}"
        return _reason(record, "no_worker", detail, f"start a worker that has the workflow{_for_queue(record)}")
    detail = f"it is due, and the next worker with a free slot{_for_queue(record)} takes it"
    return _reason(record, "due", detail, "", due_at=instant(record.due_at_ms or now_ms))


def _held(
    record: RunRecord, run: Run, workers: Sequence[WorkerRecord], now_ms: int, child: RunRecord | None
) -> Explanation:
    if all(worker.id != record.worker for worker in workers):
        detail = f"worker {record.worker} holds it and shows no sign of life"
        return _reason(record, "lease", detail, "another worker takes it over when the lease has run out")
    active = [b for b in run.branches.values() if not run.holds(b) and _is_at_work(b, now_ms)]
    waits = waiting_of(run)
    if not active and waits:
        return _waits(record, run, waits[0], child, known=True)
    branch = active[0] if active else None
    at = None if branch is None else branch.at
    if branch is None or at is None:
        return _reason(record, "running", f"worker {record.worker} is about to go on with it", "")
    again = None if branch.status != "suspended" else _begun_again(branch, now_ms)
    what, key = (f"attempt {branch.attempt}", "") if again is None else (_attempt_of(again), again.key)
    detail = f"worker {record.worker} makes {what} of step {at.step!r}"
    return _reason(record, "running", detail, "", branch=branch.id, step=at.step, operation=key)


def _is_at_work(branch: Branch, now_ms: int) -> bool:
    """Whether somebody who holds the run makes an attempt there.

    A retry that has begun is a branch or an operation in backoff, as far as is recorded, until its outcome is.
    """
    if branch.status == "suspended":
        return _begun_again(branch, now_ms) is not None
    return branch.status in OWING and (branch.due_at_ms is None or branch.due_at_ms <= now_ms)


def _begun_again(branch: Branch, now_ms: int) -> Operation | None:
    for each in pending(branch):
        if each.status == "backoff" and each.due_at_ms is not None and each.due_at_ms <= now_ms:
            return each
    return None


def _attempt_of(operation: Operation) -> str:
    return f"attempt {operation.attempt} of {operation.key!r}"


def _waits(record: RunRecord, run: Run, wait: Waiting, child: RunRecord | None, *, known: bool) -> Explanation:
    return Explanation(
        run_id=record.id,
        status=record.status,
        reason=wait.reason,
        detail=_sentence(wait, child),
        action=_action(record, run, wait, known=known),
        branch=wait.branch,
        step=wait.step,
        operation=wait.operation,
        child=wait.child,
        due_at=wait.due_at,
    )


def _sentence(wait: Waiting, child: RunRecord | None) -> str:
    place = f"branch {wait.branch!r} at step {wait.step!r}"
    what = wait.detail if wait.reason in {"pause", "timer"} else f"waits {wait.detail}"
    if child is not None and child.id == wait.child:
        what += f", which is {child.status}"
    since = "" if wait.since is None else f", since {wait.since:%Y-%m-%d %H:%M:%S} UTC"
    until = "" if wait.due_at is None else f", until {wait.due_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{place} {what}{since}{until}".replace("sleeps,", "sleeps")


def _action(record: RunRecord, run: Run, wait: Waiting, *, known: bool) -> str:
    is_for_ever = wait.due_at is None and run.deadline_ms is None
    actions = {
        "pause": "unpause it",
        "signal": f"send signal {wait.signal!r}" + ("; it waits for ever" if is_for_ever else ""),
        "child": f"explain run {wait.child!r}",
    }
    action = actions.get(wait.reason, "")
    if not known and wait.reason != "pause":
        also = f"start a worker: none that is alive knows workflow {record.workflow!r}"
        action = f"{action}; {also}" if action else also
    return action


def _reason(
    record: RunRecord,
    reason: Reason,
    detail: str,
    action: str,
    *,
    branch: str = "",
    step: str = "",
    operation: str = "",
    due_at: datetime | None = None,
) -> Explanation:
    return Explanation(
        run_id=record.id,
        status=record.status,
        reason=reason,
        detail=detail,
        action=action,
        branch=branch,
        step=step,
        operation=operation,
        due_at=due_at,
    )


def _for_queue(record: RunRecord) -> str:
    return "" if record.queue == DEFAULT_QUEUE else f" for queue {record.queue!r}"
