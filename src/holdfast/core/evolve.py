"""How entries change a run: `evolve` and `replay`. The only way a `Run` changes.

It takes the store's stamp of the commit as an argument and needs neither the definition nor any code of the
user, so that a journal replays exactly under every later version.
"""

from collections.abc import Iterable, Mapping
from typing import assert_never

from holdfast.core.clocks import (
    arm,
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
    DELETED,
    Arrival,
    BranchJoined,
    Control,
    Entry,
    Paused,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    Unpaused,
    WaitTimedOut,
)
from holdfast.core.operated import await_operation, forget_all, forget_from, operated, put_away, take_up
from holdfast.core.run import ATTEMPTING, MAIN, OPEN, Branch, BranchStatus, Run, split_place


def evolve(run: Run, entry: Entry, at_ms: int) -> None:
    """Apply one recorded entry, stamped `at_ms` by the store. The only way a run changes."""
    if type(entry) is StepCompleted and leads_straight_on(run, entry):
        # Most entries by far. A property test holds the shortcut equal to the long way.
        go_straight_on(run, entry, at_ms)
    else:
        _evolve(run, entry, at_ms)


def _evolve(run: Run, entry: Entry, at_ms: int) -> None:
    run.blocked = None
    match entry:
        case StepCompleted():
            _step_completed(run, entry, at_ms)
        case (
            RunCompleted() | RunFailed() | RunCancelled() | RunReopened() | Paused() | Unpaused() | RunBlocked()
        ):
            _controlled(run, entry, at_ms)
        case SleepEnded() | WaitTimedOut() | SignalReceived() | BranchJoined():
            _moved(run, entry, at_ms)
        case RunStarted():
            _run_started(run, entry, at_ms)
        case RetryScheduled():
            _retry_scheduled(run, entry, at_ms)
        case _:
            operated(run, entry, at_ms)
    if run.blocked is not None:
        run.status = "blocked"
    elif run.active:
        run.status = "running"
    elif run.open:
        run.status = "suspended" if run.pause is None and not run.paused else "paused"
    run.position += 1
    run.updated_at_ms = at_ms


def go_straight_on(run: Run, entry: StepCompleted, at_ms: int) -> Arrival:
    """Apply an entry of which `leads_straight_on` says yes; where its branch is now, owing an attempt."""
    branch, arrival = run.branches[entry.branch], entry.arrivals[0]
    # It stays open and active, so there is nothing to count or to reset.
    branch.value = entry.output
    branch.at = arrival
    branch.visits[arrival.step] = arrival.visit
    run.position += 1
    run.updated_at_ms = at_ms
    return arrival


def leads_straight_on(run: Run, entry: StepCompleted) -> bool:
    """Whether all that the entry means is that its branch goes from one task to the next, as most do."""
    arrivals, branch = entry.arrivals, run.branches[entry.branch]
    if len(arrivals) != 1 or arrivals[0].kind != "task" or arrivals[0].branch != branch.id:
        return False
    return is_plain(run, branch) and not entry.sets


def is_plain(run: Run, branch: Branch) -> bool:
    """Whether a branch makes its first attempt of a step that has said nothing meanwhile, and nobody pauses."""
    if run.status != "running" or branch.status != "active" or branch.attempt != 1 or branch.pause is not None:
        return False
    return not (branch.operations or branch.sets or branch.heartbeat or branch.progress)


def replay(run_id: str, entries: Iterable[tuple[Entry, int]]) -> Run:
    """Fold (entry, stamp in ms) pairs, from position 1 on, into a run."""
    run = Run(run_id)
    for entry, at_ms in entries:
        evolve(run, entry, at_ms)
    return run


def _controlled(run: Run, entry: RunCompleted | RunFailed | RunBlocked | Control, at_ms: int) -> None:
    match entry:
        case RunCompleted():
            run.output_branch = entry.branch
            run.deadline_ms = run.deadline_left_ms = None
            run.status = "completed"
        case RunBlocked():
            run.blocked = entry
        case RunFailed() | RunCancelled():
            _run_ended(run, entry, at_ms)
        case RunReopened():
            _run_reopened(run, at_ms)
        case Paused() | Unpaused():
            _pause_changed(run, entry, at_ms)
        case _:
            assert_never(entry)


def recount(run: Run) -> None:
    """Count again what a run keeps of its branches for quick answers; `joining` and `waits` stay."""
    branches = [branch for branch in run.branches.values() if branch.status in OPEN]
    run.open, run.active, run.timers = len(branches), 0, {}
    run.paused = sum(branch.pause is not None for branch in branches)
    run.children = {}
    for branch in branches:
        arm(run, branch)
        for operation in pending(branch):
            await_operation(run, branch, operation)


def _run_started(run: Run, entry: RunStarted, at_ms: int) -> None:
    run.workflow = entry.workflow
    run.fingerprint = entry.fingerprint
    run.input = entry.input
    run.created_at_ms = at_ms
    run.timeout_ms = entry.timeout_ms
    run.deadline_ms = None if entry.timeout_ms is None else at_ms + entry.timeout_ms
    run.branches[MAIN] = main = Branch(MAIN, None, entry.input)
    _arrive(run, main, entry.arrivals, at_ms)


def _step_completed(run: Run, entry: StepCompleted, at_ms: int) -> None:
    branch = run.branches[entry.branch]
    branch.value = entry.output
    if entry.sets or branch.sets:
        _set(branch, {**branch.sets, **entry.sets})
    forget_all(branch, run)
    _leave(run, branch)
    _arrive(run, branch, entry.arrivals, at_ms)


def _set(branch: Branch, sets: Mapping[str, bytes]) -> None:
    for name, payload in sets.items():
        if payload == DELETED:
            branch.variables.pop(name, None)
        else:
            branch.variables[name] = payload


def _moved(run: Run, entry: SleepEnded | WaitTimedOut | SignalReceived | BranchJoined, at_ms: int) -> None:
    branch = run.branches[entry.branch]
    if isinstance(entry, SignalReceived):
        branch.value = entry.payload
    elif isinstance(entry, BranchJoined):
        branch.value = {name: run.branches[name].value for name in entry.joined}
    _leave(run, branch)
    _arrive(run, branch, entry.arrivals, at_ms)


def _retry_scheduled(run: Run, entry: RetryScheduled, at_ms: int) -> None:
    branch = run.branches[entry.branch]
    _leave(run, branch)
    if entry.operation:
        forget_from(run, branch, entry.operation)
    branch.attempt = entry.attempt
    branch.budgets[entry.pattern] = branch.budgets.get(entry.pattern, 0) + 1
    branch.failure = entry.failure
    _enter(run, branch, "backoff", at_ms + entry.delay_ms, at_ms)
    if branch.operations:
        rearm(run, branch)


def _run_ended(run: Run, entry: RunFailed | RunCancelled, at_ms: int) -> None:
    # A branch that failed where it went on, and not where it was, has nothing to try again.
    can_reopen = isinstance(entry, RunFailed) and (
        not entry.branch or run.branches[entry.branch].status in OPEN
    )
    for branch in run.branches.values():
        if branch.status in OPEN:
            was = branch.status
            _leave(run, branch)
            stop_clock(branch, at_ms)
            put_away(run, branch, at_ms)
            branch.was = was if can_reopen else None
            branch.status = "cancelled"
            if isinstance(entry, RunFailed) and branch.id == entry.branch:
                branch.status = "failed"
                branch.failure = entry.failure
                branch.culprit = entry.operation
    run.deadline_ms = run.deadline_left_ms = None
    if isinstance(entry, RunFailed):
        run.failure = entry.failure
        run.status = "failed"
    else:
        run.cancel = entry
        run.status = "cancelled"


def _run_reopened(run: Run, at_ms: int) -> None:
    run.failure = None
    run.pause = None
    run.deadline_ms = None if run.timeout_ms is None else at_ms + run.timeout_ms
    # In the order in which they came there: who has waited longest still does. Who waits anew is last.
    for branch in sorted(run.branches.values(), key=lambda each: (each.status == "failed", each.since_ms)):
        was, branch.was = branch.was, None
        if was is None:
            continue
        branch.pause = None
        take_up(run, branch, at_ms)
        if branch.status == "failed" and was in ATTEMPTING:
            forget_from(run, branch, branch.culprit)
            branch.attempt += 1
            branch.budgets = {}
            _enter(run, branch, "active", None, at_ms)
        elif branch.status == "failed" and branch.at is not None and branch.at.wait is not None:
            branch.since_ms = at_ms
            _enter(run, branch, was, _due_at_ms(branch.at, at_ms), at_ms)
        else:
            start_clock(branch, at_ms)
            # What a body waited for may have gone with the failure: it is to look.
            _enter(run, branch, "active" if was == "suspended" else was, branch.due_at_ms, at_ms)
    run.waits = dict(sorted(run.waits.items(), key=lambda wait: _since_ms(run, wait[0])))


def _since_ms(run: Run, place: str) -> int:
    name, key = split_place(place)
    branch = run.branches[name]
    return branch.operations[key].since_ms if key else branch.since_ms


def _pause_changed(run: Run, entry: Paused | Unpaused, at_ms: int) -> None:
    whole = not entry.branch
    branches = list(run.branches.values()) if whole else [run.branches[entry.branch]]
    branches = [branch for branch in branches if branch.status in OPEN]
    for branch in branches:
        disarm(run, branch)
        for operation in pending(branch):
            disarm_operation(run, branch, operation)
    if whole:
        _pause_run(run, entry if isinstance(entry, Paused) else None, at_ms)
    if not whole or isinstance(entry, Unpaused):
        for branch in branches:
            branch.pause, branch.paused_at_ms = entry if isinstance(entry, Paused) else None, at_ms
    run.paused = sum(b.pause is not None for b in run.branches.values() if b.status in OPEN)
    for branch in branches:
        turn_clock = stop_clock if is_frozen(run, branch) else start_clock
        turn_clock(branch, at_ms)
        arm(run, branch)
        for operation in pending(branch):
            turn_clock(operation, at_ms)
            arm_operation(run, branch, operation)


def _pause_run(run: Run, pause: Paused | None, at_ms: int) -> None:
    run.pause, run.paused_at_ms = pause, at_ms
    if pause is None and run.deadline_left_ms is not None:
        run.deadline_ms, run.deadline_left_ms = at_ms + run.deadline_left_ms, None
    elif pause is not None and pause.freezes and run.deadline_ms is not None:
        run.deadline_left_ms, run.deadline_ms = run.deadline_ms - at_ms, None


def _leave(run: Run, branch: Branch) -> None:
    """Take an open branch from where it is; it is completed unless it arrives somewhere."""
    disarm(run, branch)
    run.joining.pop(branch.id, None)
    run.waits.pop(branch.id, None)
    run.paused -= branch.pause is not None
    run.open -= 1
    branch.status = "completed"


def _arrive(run: Run, source: Branch, arrivals: tuple[Arrival, ...], at_ms: int) -> None:
    """Put `source` and the branches it starts where the journal says."""
    for arrival in arrivals:
        branch = run.branches.get(arrival.branch)
        if branch is None:
            branch = run.branches[arrival.branch] = Branch(arrival.branch, source, source.value)
            run.branches_started += 1
        branch.at = arrival
        branch.since_ms = at_ms
        branch.visits[arrival.step] = arrival.visit
        branch.attempt, branch.budgets, branch.failure = 1, {}, None
        _enter(run, branch, _STATUSES[arrival.kind], _due_at_ms(arrival, at_ms), at_ms)


_STATUSES: Mapping[str, BranchStatus] = {
    "task": "active",
    "join": "joining",
    "sleep": "sleeping",
    "wait_signal": "waiting",
}


def _due_at_ms(at: Arrival, at_ms: int) -> int | None:
    wait = at.wait
    if wait is None:
        return None
    return wait.until_ms if wait.for_ms is None else at_ms + wait.for_ms


def _enter(run: Run, branch: Branch, status: BranchStatus, due_at_ms: int | None, at_ms: int) -> None:
    """Make a branch that is at a place open there."""
    branch.status = status
    branch.due_at_ms, branch.left_ms = due_at_ms, None
    if is_frozen(run, branch):
        stop_clock(branch, at_ms)
    run.open += 1
    run.paused += branch.pause is not None
    if status == "joining":
        run.joining[branch.id] = None
    elif status == "waiting" and branch.at is not None and branch.at.wait is not None:
        run.waits[branch.id] = branch.at.wait.signal
    arm(run, branch)
