"""Parents and children: what one transaction does to several runs (invariant 36), control among it."""

from collections.abc import Mapping, Sequence

from holdfast.codecs.entries import decode_outcome
from holdfast.core.entries import (
    Child,
    Entry,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    Paused,
    RunCancelled,
    RunCompleted,
    RunFailed,
    Unpaused,
)
from holdfast.core.run import place_of, split_place
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import InboxRow
from holdfast.testing.simulator.journals import DECODE, Shadow
from holdfast.testing.simulator.mail import OUTCOME
from holdfast.testing.simulator.world import World

ENDS = RunCompleted | RunFailed | RunCancelled


class Seen:
    """What a transaction has made of one run, and whom that has awaited before and after it."""

    def __init__(self, shadow: Shadow, row: Row, entries: Sequence[Entry], before: Mapping[str, Child]) -> None:
        """Args: the run as it is now, its row, what it has recorded, and whom it awaited before."""
        self.shadow = shadow
        self.row = row
        self.entries = entries
        self.before = before
        self.after = shadow.asking.children()
        done = [each for each in entries if isinstance(each, OperationCompleted | OperationFailed)]
        self.answered = {place_of(each.branch, each.key) for each in done}


class Kin:
    """Compares, after each transaction, what it has made of parents with what it has made of children."""

    def __init__(self, world: World, shadows: Mapping[int, Shadow]) -> None:
        """Args: where problems are kept, and the runs that are there, by key."""
        self._world = world
        self._shadows = shadows
        self._new: dict[str, Row] = {}
        self._seen: list[Seen] = []
        self._heard: list[tuple[Shadow, InboxRow]] = []

    def begins(self, row: Row) -> None:
        """A run was inserted."""
        self._new[row.new.id] = row

    def saw(self, shadow: Shadow, row: Row, entries: Sequence[Entry], before: Mapping[str, Child]) -> None:
        """A run has recorded something."""
        self._seen.append(Seen(shadow, row, entries, before))

    def heard(self, parent: Shadow) -> None:
        """Messages were stored for a run."""
        self._heard += [(parent, message) for message in parent.mail.fresh if message.kind == OUTCOME]

    def settle(self) -> None:
        """All runs have been looked at."""
        seen, self._seen = self._seen, []
        new, self._new = self._new, {}
        heard, self._heard = self._heard, []
        if not (seen or new or heard):
            return
        known = {shadow.run.id: shadow for shadow in self._shadows.values()}
        for each in seen:
            self._starts(each, new, known)
            self._leaves(each, known)
            self._controls(each, known)
            if any(isinstance(entry, ENDS) for entry in each.entries):
                self._ends(each)
            self._count(each)
        for parent, message in heard:
            self._told(parent, message, known, [each.shadow for each in seen])
        for row in new.values():
            if row.new.parent_key is not None or "/" in row.new.id:
                self._problem(row.new.id, "nobody has recorded that it is to be started")

    def _problem(self, run_id: str, text: str) -> None:
        self._world.problem(f"run {run_id}: {text}")

    def _starts(self, seen: Seen, new: dict[str, Row], known: Mapping[str, Shadow]) -> None:
        """Each child that is asked for is there with the entry that says so, and no other."""
        for entry in seen.entries:
            if isinstance(entry, OperationBegun) and entry.child is not None:
                place, child = place_of(entry.branch, entry.key), entry.child.id
                if place in seen.after:
                    self._started(seen, entry, child, new.pop(child, None), known)
                elif child in new:
                    self._problem(child, "it is started, and nobody waits for it any more")
                    del new[child]
            elif isinstance(entry, OperationCompleted) and entry.kind == "child" and not entry.seq:
                self._world.hits["child detached"] += 1
                child = str(DECODE(entry.output))
                self._started(seen, entry, child, new.pop(child, None), known)

    def _started(
        self,
        seen: Seen,
        entry: OperationBegun | OperationCompleted,
        child: str,
        row: Row | None,
        known: Mapping[str, Shadow],
    ) -> None:
        if row is None:
            self._problem(seen.shadow.run.id, f"child {child} is not started with {entry!r}")
            return
        is_awaited = isinstance(entry, OperationBegun)
        parent = (row.new.parent_key, row.new.parent_incarnation)
        mine = (seen.row.key, seen.row.incarnation) if is_awaited else (None, 0)
        if parent != mine:
            self._problem(child, f"its parent is {parent} instead of {mine}")
        if is_awaited and seen.shadow.is_held(entry.branch) and not known[child].is_held(""):
            self._problem(child, "it starts in a pause of its parent, and is not paused")
        reading = seen.shadow.reads.get(entry.branch)
        asked = None if reading is None else reading.starts.get(entry.key)
        given = (row.new.workflow, DECODE(known[child].run.input))
        if asked is not None and asked != given:
            self._problem(child, f"it is started with {given} instead of {asked}")
        self._world.hits["child"] += 1
        self._world.hits[f"child {'of a child' if '/' in seen.shadow.run.id else 'of a run'}"] += 1

    def _leaves(self, seen: Seen, known: Mapping[str, Shadow]) -> None:
        """Whoever is not awaited any more, and has not answered, is cancelled."""
        for place, child in seen.before.items():
            # Of one place, another child may be awaited by now.
            is_awaited = place in seen.after and seen.after[place].id == child.id
            shadow = known.get(child.id)
            if is_awaited or place in seen.answered or shadow is None or shadow.run.is_over:
                continue
            self._world.hits["cancel passed down"] += 1
            if not shadow.mail.wants_cancel():
                self._problem(child.id, f"nobody waits for it since {seen.entries!r}, and it is not cancelled")

    def _controls(self, seen: Seen, known: Mapping[str, Shadow]) -> None:
        """Pauses and their ends concern children, too."""
        for place, child in seen.before.items():
            shadow = known.get(child.id)
            concerning = {"", split_place(place)[0]}
            asked = [e for e in seen.entries if isinstance(e, Paused | Unpaused) and e.branch in concerning]
            if not asked or place not in seen.after or shadow is None or shadow.run.is_over:
                continue
            is_pause = isinstance(asked[-1], Paused)
            self._world.hits[f"{'pause' if is_pause else 'unpause'} passed down"] += 1
            if shadow.mail.pauses(shadow.run, "") is not is_pause and not shadow.mail.wants_cancel():
                self._problem(child.id, f"{asked[-1]!r} of its parent does not reach it")

    def _ends(self, seen: Seen) -> None:
        """The outcome of a child is in its parent's inbox at once."""
        key = seen.row.new.parent_key
        parent = None if key is None else self._shadows.get(key)
        if parent is None or parent.run.is_over or parent.incarnation != seen.row.new.parent_incarnation:
            return
        if f"outcome/{seen.row.new.id}/{seen.row.incarnation}" not in parent.mail.ids:
            self._problem(seen.row.new.id, f"it is {seen.shadow.run.status}, and its parent is not told")

    def _count(self, seen: Seen) -> None:
        for entry in seen.entries:
            if isinstance(entry, OperationCompleted | OperationFailed) and entry.kind == "child" and entry.seq:
                self._world.hits[f"child outcome {type(entry).__name__}"] += 1

    def _told(
        self, parent: Shadow, message: InboxRow, known: Mapping[str, Shadow], seen: Sequence[Shadow]
    ) -> None:
        """An outcome comes to a parent in the transaction in which the child ends, and is what became of it."""
        given = decode_outcome(message.payload, run_id=parent.run.id, seq=message.seq)
        child = known.get(given.child)
        if child is None or child not in seen or not child.run.is_over:
            self._problem(parent.run.id, f"it is told of the outcome of {given.child}, which has not ended now")
            return
        run = child.run
        if given.failure is not None:
            kind = "cancelled" if run.failure is None else run.failure.type
            is_right = run.status != "completed" and given.failure.type == kind
        else:
            is_right = run.status == "completed" and child.outputs[-1:] == [
                DECODE(given.output or b"json.1:null")
            ]
        if not is_right:
            self._problem(parent.run.id, f"it is told {given!r} of {given.child}, which is {run.status}")
