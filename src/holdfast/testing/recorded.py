"""What journals say about the calls of bodies, and what makes two of them the same.

A crash may change some of what is recorded, and none of it matters: see `first_difference`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from holdfast.codecs.entries import decode_entry, encode_entry
from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import (
    NOTHING_SET,
    Entry,
    Failure,
    Operated,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    ScopesClosed,
    StepCompleted,
    StepSuspended,
)
from holdfast.core.evolve import evolve
from holdfast.core.invariants import check
from holdfast.core.owed import owed
from holdfast.core.run import PENDING, SCOPE, Run
from holdfast.runtime.starts import CHILD_DIGEST_CHARACTERS
from holdfast.stores.base import Store
from holdfast.stores.records import RunRecord

PAGE = 1_000
UUID_CHARACTERS = 36
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNTOLD = StepSuspended | Reported
"""Entries that say how a body fared in one process, and nothing that another one goes by."""
Lane = tuple[str, ...]
"""What has an order of its own: a branch, or a scope in the body of one of its steps."""


class Key(NamedTuple):
    """An attempt of a step, or of an operation that the body of the step has asked for; all numbers are from 1.

    Attributes:
        run, incarnation: Whose; a run's id.
        branch, step, visit, attempt: Which attempt of the step.
        operation, operation_attempt: Which of the operation; "" and 0 for the step itself.
    """

    run: str
    incarnation: int
    branch: str
    step: str
    visit: int
    attempt: int
    operation: str = ""
    operation_attempt: int = 0

    @property
    def is_of_step(self) -> bool:
        """Whether it is the step's own attempt, and not that of an operation."""
        return not self.operation


class Journal(NamedTuple):
    """What is recorded of one run.

    Attributes:
        run: Its id.
        name: The same, where what chance has put into it is replaced by what is always there.
        incarnation: Which journal of the run it is.
        entries: All of them.
        plain: The same, where ids of children and UUIDs are replaced.
        undelivered: How many messages it has not used up.
    """

    run: str
    name: str
    incarnation: int
    entries: Sequence[Entry]
    plain: Sequence[Entry]
    undelivered: int


Journals = Mapping[str, Journal]
"""By id of the run."""


async def list_records(store: Store) -> list[RunRecord]:
    """The rows of all runs in an open store, in the order in which they were started."""
    found: list[RunRecord] = []
    while rows := await store.list_runs(
        status=None, workflow=None, limit=PAGE, after=found[-1].key if found else None
    ):
        found += rows
    return found[::-1]


async def read_journals(store: Store) -> dict[str, Journal]:
    """The journals of all runs in an open store."""
    records = await list_records(store)
    masks: dict[str, str] = {}
    names = _masked_ids(records, masks)
    read: dict[str, list[Entry]] = {}
    for record in records:
        rows = await store.read_journal(record.key)
        read[record.id] = [decode_entry(row.entry, run_id=record.id, position=row.position) for row in rows]
    ordered = sorted(records, key=lambda record: names[record.id])
    uuids = [each for record in ordered for each in _uuids(read[record.id])]
    masks |= {each: f"{number:0{UUID_CHARACTERS}d}" for number, each in enumerate(dict.fromkeys(uuids))}
    return {
        record.id: Journal(
            record.id,
            names[record.id],
            record.incarnation,
            read[record.id],
            [_replaced(entry, masks) for entry in read[record.id]] if masks else read[record.id],
            await store.pending(record.key),
        )
        for record in records
    }


def completed(journal: Journal) -> set[Key]:
    """The attempts of steps that are recorded as done."""
    at = (journal.run, journal.incarnation)
    return {
        Key(*at, e.branch, e.step, e.visit, e.attempt) for e in journal.entries if isinstance(e, StepCompleted)
    }


def operations_done(journal: Journal) -> set[Key]:
    """The operations of open steps that are recorded as done, as keys without attempts."""
    run = Run(journal.run)
    for entry in journal.entries:
        evolve(run, entry, 0)
    return {
        Key(journal.run, journal.incarnation, branch.id, branch.at.step, branch.at.visit, 0, each.key)
        for branch in run.branches.values()
        if branch.at is not None
        for each in branch.operations.values()
        if each.status not in PENDING
    }


def operations_answered(journal: Journal, *, after: int) -> Counter[Key]:
    """How many attempts of operations have their outcome in entries behind a position."""
    return Counter(
        Key(journal.run, journal.incarnation, e.branch, e.step, e.visit, 0, e.key)
        for e in journal.entries[after:]
        if isinstance(e, OperationCompleted | OperationFailed | OperationRetried)
    )


def allowed(journal: Journal) -> set[Key]:
    """All attempts of steps that the journal has ever owed: no body may be called that is not among them."""
    run = Run(journal.run)
    found: set[Key] = set()
    for entry in journal.entries:
        evolve(run, entry, 0)
        effects = [effect.then if isinstance(effect, ArmTimer) else effect for effect in owed(run)]
        found |= {
            Key(journal.run, journal.incarnation, effect.branch, effect.step, effect.visit, effect.attempt)
            for effect in effects
            if isinstance(effect, StartAttempt)
        }
    return found


def problems_of(journal: Journal) -> list[str]:
    """What is wrong with a journal, and with the states that it folds to; see `core.invariants`."""
    run = Run(journal.run)
    problems: list[str] = []
    for position, entry in enumerate(journal.entries, start=1):
        if isinstance(entry, OperationCompleted | OperationFailed):
            known = run.branches[entry.branch].operations.get(entry.key)
            if known is not None and known.status not in PENDING:
                problems.append(f"entry {position} ends operation {entry.key!r}, which was done before")
        evolve(run, entry, 0)
        problems += [f"after entry {position} it is not true that {claim}" for claim in check(run)]
    return problems


def first_difference(one: Journals, other: Journals, *, with_data: bool) -> str:
    """The first thing in which two sets of journals differ, or "".

    They are the same where the same runs were started, and in each of them every branch, and every scope of the
    body of a step, has the same entries in the same order: operations with the same keys, kinds and outcomes.
    What a crash may change does not count:

    * the order between parallel branches and between parallel scopes,
    * when a body was put away, and what it has reported of itself,
    * which parts of parallel work were cancelled, and how far they and their children had come: where two end
      at one moment, a crash lets one of them be the first; it counts by what follows from it,
    * the digest in the id of a child, which stands for a position in the journal; numbers of messages,
    * UUIDs, which are drawn again where they were not recorded yet: they count as the same where they are
      used in the same places,
    * with which entry variables were recorded: they are compared when the step is done,
    * the text of tracebacks.

    Args:
        one: What is as it should be.
        other: What to look at.
        with_data: Whether outputs and failures must be equal too, not only steps, operations and attempts.
    """
    ours = {journal.name: journal for journal in one.values()}
    theirs = {journal.name: journal for journal in other.values()}
    closed = [
        (f"{journal.name}/{entry.key}/", entry.ended)
        for journal in (*ours.values(), *theirs.values())
        for entry in journal.plain
        if isinstance(entry, ScopesClosed)
    ]
    ours, theirs = [
        {name: journal for name, journal in given.items() if not _is_of_cancelled(name, closed)}
        for given in (ours, theirs)
    ]
    for name in sorted(ours.keys() ^ theirs.keys()):
        return f"run {name!r} is {_there(theirs.get(name))}, and without a crash it is {_there(ours.get(name))}"
    for name, mine in ours.items():
        found = _difference(mine, theirs[name], with_data=with_data)
        if found:
            return f"{found} (in run {name!r})" if len(ours) > 1 else found
    return ""


def _is_of_cancelled(name: str, closed: Iterable[tuple[str, tuple[int, ...]]]) -> bool:
    """Whether a run is a child of a part that was cancelled."""
    return any(
        name.startswith(within) and int(name[len(within) :].partition(SCOPE)[0]) not in ended
        for within, ended in closed
    )


def _difference(one: Journal, other: Journal, *, with_data: bool) -> str:
    if one.incarnation != other.incarnation:
        return f"its incarnation is {other.incarnation}, and without a crash it is {one.incarnation}"
    (ours, our_closed), (theirs, their_closed) = _lanes(one.plain), _lanes(other.plain)
    ours = {
        lane: entries for lane, entries in ours.items() if lane in theirs or not _is_out(lane, their_closed)
    }
    theirs = {
        lane: entries for lane, entries in theirs.items() if lane in ours or not _is_out(lane, our_closed)
    }
    for lane in {**ours, **theirs}:
        mine, others = ours.get(lane, []), theirs.get(lane, [])
        for position in range(max(len(mine), len(others))):
            pair = [entries[position] if position < len(entries) else None for entries in (mine, others)]
            wanted, found = pair if with_data else [_shape(entry) for entry in pair]
            if wanted != found:
                return f"entry {position + 1}{_of(lane)} is {found}, and without a crash it is {wanted}"
    if one.undelivered != other.undelivered:
        return f"{other.undelivered} messages were not used up, and without a crash {one.undelivered}"
    return ""


def _lanes(entries: Iterable[Entry]) -> tuple[dict[Lane, list[Entry]], dict[Lane, ScopesClosed]]:
    """What is recorded in each lane; and by place and key, which parallel work was closed before its end."""
    found: dict[Lane, list[Entry]] = {}
    closed: dict[Lane, ScopesClosed] = {}
    sets: dict[Lane, dict[str, bytes]] = {}
    for entry in entries:
        if isinstance(entry, _UNTOLD):
            continue
        if isinstance(entry, StepCompleted):
            place = (entry.branch, entry.step, str(entry.visit))
            together = {**sets.pop(place, {}), **entry.sets}
            found.setdefault((entry.branch,), []).append(msgspec.structs.replace(entry, sets=together))
        elif isinstance(entry, ScopesClosed):
            around = (entry.branch, entry.step, str(entry.visit), entry.key)
            closed[around] = entry
            for lane in [lane for lane in found if _is_out(lane, {around: entry})]:
                del found[lane]
        elif isinstance(entry, Operated):
            place = (entry.branch, entry.step, str(entry.visit))
            sets.setdefault(place, {}).update(entry.sets)
            scope = entry.key[: entry.key.rfind(SCOPE) + 1]
            found.setdefault((*place, scope), []).append(_bare(entry))
        else:
            found.setdefault((getattr(entry, "branch", ""),), []).append(_bare(entry))
    return found, closed


def _is_out(lane: Lane, closed: Mapping[Lane, ScopesClosed]) -> bool:
    """Whether a lane is one of parts that were cancelled: they had come as far as luck would have it."""
    for (*place, key), entry in closed.items():
        within = key + SCOPE
        if list(lane[:-1]) == place and lane[-1].startswith(within):
            number = int(lane[-1][len(within) :].partition(SCOPE)[0])
            if number not in entry.ended:
                return True
    return False


def _bare(entry: Entry) -> Entry:
    """The entry without what a crash may change."""
    changes: dict[str, object] = {}
    failure: object = getattr(entry, "failure", None)
    if isinstance(failure, Failure):
        changes["failure"] = _without_traceback(failure)
    if hasattr(entry, "seq"):
        changes["seq"] = 0
    if isinstance(entry, Operated) and hasattr(entry, "sets"):
        changes["sets"] = NOTHING_SET
    return msgspec.structs.replace(entry, **changes) if changes else entry


def _without_traceback(failure: Failure) -> Failure:
    cause = None if failure.cause is None else _without_traceback(failure.cause)
    return msgspec.structs.replace(failure, traceback="", cause=cause)


def _shape(entry: Entry | None) -> str:
    if entry is None:
        return "missing"
    facts = [getattr(entry, name, None) for name in ("step", "visit", "attempt", "kind", "key")]
    return " ".join([type(entry).__name__, *(str(fact) for fact in facts if fact is not None)])


def _of(lane: Lane) -> str:
    if len(lane) == 1:
        return f" of branch {lane[0]!r}" if lane[0] else ""
    branch, step, _, scope = lane
    return f" of scope {scope!r} in step {step!r} of branch {branch!r}"


def _there(journal: Journal | None) -> str:
    return "not there" if journal is None else "there"


def _masked_ids(records: Iterable[RunRecord], masks: dict[str, str]) -> dict[str, str]:
    """Names of runs by id: digests of children are replaced by numbers, and those noted in `masks`."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for record in records:
        name = record.id
        for digest, mask in masks.items():
            name = name.replace(digest, mask)
        readable, dash, digest = name.rpartition("-")
        if dash and SCOPE in readable and len(digest) == CHILD_DIGEST_CHARACTERS:
            masks[digest] = f"{counts[readable]:0{CHILD_DIGEST_CHARACTERS}d}"
            counts[readable] += 1
            name = f"{readable}-{masks[digest]}"
        names[record.id] = name
    return names


def _uuids(entries: Iterable[Entry]) -> list[str]:
    """The UUIDs that bodies have drawn, by their places."""
    drawn = [
        (entry.branch, entry.step, entry.visit, entry.key, found.group().decode())
        for entry in entries
        if isinstance(entry, OperationCompleted) and entry.kind == "value"
        for found in _UUID.finditer(entry.output)
    ]
    return [each[-1] for each in sorted(drawn, key=lambda each: each[:-1])]


def _replaced(entry: Entry, masks: Mapping[str, str]) -> Entry:
    """The entry with other texts; they are as long as those that they replace, so that the format stays."""
    data = encode_entry(entry)
    for text, mask in masks.items():
        data = data.replace(text.encode(), mask.encode())
    return decode_entry(data, run_id="", position=0)
