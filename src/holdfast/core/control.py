"""What people ask of a run from outside (semantics rows 31 to 33, 52). None of it needs the definition.

unfinished  --(pause)-->    the same, but nothing starts: Paused
paused      --(unpause)-->  as it was: Unpaused
unfinished  --(cancel)-->   cancelled: RunCancelled
failed      --(retry)-->    at the failed step again: RunReopened
any other   --(any)-->      unchanged: asking twice is harmless
"""

from collections.abc import Iterable

import msgspec

from holdfast.core.entries import Control, Entry, Paused, RunCancelled, RunReopened, Unpaused
from holdfast.core.events import ControlRequested
from holdfast.core.run import OPEN, Run
from holdfast.core.turn import Turn


def controlled(run: Run, events: Iterable[ControlRequested]) -> list[Entry]:
    """The entries that requests mean to a run, in their order; `decide` for who has no definition."""
    entries: list[Entry] = []
    for event in events:
        entries += _meant(run, entries, event.wanted)
        if isinstance(event.wanted, RunCancelled) and entries:
            break
    return entries


def control_requested(turn: Turn, event: ControlRequested) -> None:
    """Record what is wanted, where it makes sense."""
    turn.entries += _meant(turn.run, turn.entries, event.wanted)
    turn.over = isinstance(event.wanted, RunCancelled) and not turn.run.is_over


def can_reopen(run: Run) -> bool:
    """Whether there is a step to try again; joins that can never be met fail again at once."""
    return any(branch.was not in {None, "joining"} for branch in run.branches.values())


def _meant(run: Run, entries: list[Entry], wanted: Control) -> list[Control]:
    """What is to be recorded of a request, after `entries` of the same turn."""
    if isinstance(wanted, RunReopened):
        return [wanted] if run.status == "failed" and can_reopen(run) else []
    if run.is_over:
        return []
    match wanted:
        case RunCancelled():
            return [wanted]
        case Paused():
            names = _open_heirs(run, wanted.branch) if wanted.branch else [""]
            names = [name for name in names if not _is_paused(run, entries, name)]
            return [msgspec.structs.replace(wanted, branch=name) for name in names]
        case Unpaused() if not wanted.branch:
            names = ["", *(each.id for each in run.branches.values() if each.status in OPEN)]
            return [wanted] if any(_is_paused(run, entries, name) for name in names) else []
        case Unpaused():
            names = [name for name in _open_heirs(run, wanted.branch) if _is_paused(run, entries, name)]
            return [msgspec.structs.replace(wanted, branch=name) for name in names]


def _open_heirs(run: Run, branch: str) -> list[str]:
    """The branch, or where it is over by now, the open ones that it has started, and theirs.

    Whoever asked saw it open. Its end must not undo what was acknowledged.
    """
    found = run.branches.get(branch)
    if found is None or found.status in OPEN:
        return [] if found is None else [branch]
    children = [each.id for each in run.branches.values() if each.parent == branch]
    return [heir for child in children for heir in _open_heirs(run, child)]


def _is_paused(run: Run, entries: list[Entry], branch: str) -> bool:
    """Whether the branch, or with "" the run itself, has a pause of its own after `entries`."""
    for entry in reversed(entries):
        if isinstance(entry, Paused) and entry.branch == branch:
            return True
        if isinstance(entry, Unpaused) and entry.branch in {"", branch}:
            return False
    if not branch:
        return run.pause is not None
    return branch in run.branches and run.branches[branch].pause is not None
