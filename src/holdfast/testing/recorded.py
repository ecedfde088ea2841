"""What a journal says about the calls of bodies: which it allowed, and which it records as done."""

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.codecs.entries import decode_entry
from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import Entry, StepCompleted
from holdfast.core.evolve import evolve
from holdfast.core.invariants import check
from holdfast.core.owed import owed
from holdfast.core.run import Run
from holdfast.stores.base import Store


class Key(NamedTuple):
    """An attempt of a step; `attempt` and `visit` are from 1."""

    branch: str
    step: str
    visit: int
    attempt: int


async def read_entries(store: Store, run_id: str) -> list[Entry]:
    """The journal of a run in an open store; empty where there is no such run."""
    record = await store.find_run(run_id)
    rows = [] if record is None else await store.read_journal(record.key)
    return [decode_entry(row.entry, run_id=run_id, position=row.position) for row in rows]


def completed(entries: Sequence[Entry]) -> set[Key]:
    """The attempts that are recorded as done."""
    return {Key(e.branch, e.step, e.visit, e.attempt) for e in entries if isinstance(e, StepCompleted)}


def allowed(entries: Sequence[Entry]) -> set[Key]:
    """All attempts that the journal has ever owed: no body may be called that is not among them."""
    run = Run("recorded")
    found: set[Key] = set()
    for entry in entries:
        evolve(run, entry, 0)
        effects = [effect.then if isinstance(effect, ArmTimer) else effect for effect in owed(run)]
        found |= {
            Key(effect.branch, effect.step, effect.visit, effect.attempt)
            for effect in effects
            if isinstance(effect, StartAttempt)
        }
    return found


def problems_of(entries: Sequence[Entry]) -> list[str]:
    """What is wrong with the states that a journal folds to; see `core.invariants`."""
    run = Run("recorded")
    problems: list[str] = []
    for position, entry in enumerate(entries, start=1):
        evolve(run, entry, 0)
        problems += [f"after entry {position} it is not true that {claim}" for claim in check(run)]
    return problems


def first_difference(one: Sequence[Entry], other: Sequence[Entry], *, with_data: bool) -> str:
    """The first entry in which two journals differ, or "".

    The order between parallel branches does not count.

    Args:
        one: The journal that is as it should be.
        other: The one to look at.
        with_data: Whether outputs and failures must be equal too, not only steps and attempts.
    """
    ours, theirs = _by_branch(one), _by_branch(other)
    for branch in {**ours, **theirs}:
        mine, others = ours.get(branch, []), theirs.get(branch, [])
        for position in range(max(len(mine), len(others))):
            pair = [entries[position] if position < len(entries) else None for entries in (mine, others)]
            wanted, found = pair if with_data else [_shape(entry) for entry in pair]
            if wanted != found:
                place = f"entry {position + 1} of branch {branch!r}" if branch else f"entry {position + 1}"
                return f"{place} is {found}, and without a crash it is {wanted}"
    return ""


def _by_branch(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(getattr(entry, "branch", ""), []).append(entry)
    return found


def _shape(entry: Entry | None) -> str:
    if entry is None:
        return "missing"
    facts = [getattr(entry, name, None) for name in ("step", "visit", "attempt")]
    return " ".join([type(entry).__name__, *(str(fact) for fact in facts if fact is not None)])
