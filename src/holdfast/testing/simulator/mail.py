"""The messages of a run, from the moment in which the store has them: none is lost, none counts twice."""

from collections import Counter
from collections.abc import Mapping, Sequence

from holdfast.codecs.entries import decode_entry, decode_outcome
from holdfast.core.entries import (
    Child,
    Entry,
    OperationCompleted,
    OperationFailed,
    Paused,
    RunCancelled,
    SignalReceived,
    Unpaused,
)
from holdfast.core.run import OPEN, Run, place_of
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import InboxRow
from holdfast.testing.simulator.asked import Asking

SIGNAL = "signal"
OUTCOME = "outcome"


class Mail:
    """What one incarnation of a run was sent (invariants 19 to 21, 30 and 31).

    Attributes:
        pending: Messages in the store, by number.
        ids: Of all that were ever stored, with name and payload.
        sent: How many they are.
        since_s: When each pending one was stored, in virtual time.
        fresh: Those that were stored in the transaction that was seen last.
        used: Those that are used up, by number: parts that lose give signals back.
        returned: How many signals that transaction has given back.
    """

    def __init__(self, run_id: str, before: "Mail | None" = None) -> None:
        """None was sent yet; or those of the incarnation before, which has begun anew."""
        self.pending: dict[int, InboxRow] = {}
        self.ids: dict[str, tuple[str, bytes]] = {}
        self.sent = 0
        self.since_s: dict[int, float] = {}
        self.fresh: list[InboxRow] = []
        self.used: dict[int, InboxRow] = {}
        self.returned = 0
        self._run_id = run_id
        if before is not None:
            self.pending, self.ids = dict(before.pending), dict(before.ids)
            self.sent, self.since_s = before.sent, dict(before.since_s)

    def see(
        self,
        row: Row,
        entries: Sequence[Entry],
        asking: Asking,
        *,
        was_over: bool,
        run: Run,
        now_s: float,
    ) -> list[str]:
        """Take in what a transaction has made of the inbox, with the entries it has appended.

        `asking` is what bodies have asked for by then.
        """
        self.fresh = []
        children = asking.children()
        wrong = self._come_back(row, asking.take_back(), now_s)
        for message in row.inbox:
            if message.seq > self.sent:
                if message.id in self.ids:
                    wrong.append(f"message {message.id} is stored twice")
                if was_over:
                    wrong.append(f"message {message.id} is stored in a run that is over")
                self.sent = message.seq
                self.fresh.append(message)
                self.ids[message.id] = (message.name, message.payload)
                self.pending[message.seq] = message
                self.since_s[message.seq] = now_s
        if row.messages_sent != self.sent:
            wrong.append(f"{row.messages_sent} messages were sent, and {self.sent} were seen")
        received = dict(taken for taken in map(taken_by, entries) if taken is not None)
        gone = self.pending.keys() - {message.seq for message in row.inbox}
        for seq in sorted(gone):
            self.used[seq] = self.pending.pop(seq)
            wrong += self._gone(self.used[seq], received, entries, run, children)
        left = [seq for seq in received if seq not in gone]
        if left:
            wrong.append(f"received {left} without taking them out of the inbox")
        return wrong

    def _come_back(self, row: Row, back: Sequence[int], now_s: float) -> list[str]:
        """What is in the inbox again is what lost, as it was, and nothing else."""
        known = {message.seq: message for message in row.inbox if message.seq <= self.sent}
        again = known.keys() - self.pending.keys()
        self.returned = len(again)
        self.pending.update({seq: known[seq] for seq in again})
        self.since_s.update(dict.fromkeys(again, now_s))
        if again == set(back) and all(self.used.get(seq) == known[seq] for seq in again):
            return []
        return [f"signals {sorted(again)} are in the inbox again, and {sorted(back)} were given back"]

    def _gone(
        self,
        message: InboxRow,
        received: Mapping[int, bytes | None],
        entries: Sequence[Entry],
        run: Run,
        children: Mapping[str, Child],
    ) -> list[str]:
        if message.kind == SIGNAL:
            is_right = received.get(message.seq) == message.payload
            return [] if is_right else [f"{message} is gone, and {received} says so"]
        if message.kind == OUTCOME:
            told = decode_outcome(message.payload, run_id=self._run_id, seq=message.seq)
            awaited = children.get(place_of(told.awaited.branch, told.awaited.key))
            is_awaited = awaited is not None and awaited.id == told.child
            return [f"outcome {message.id} is gone, and is awaited still"] if is_awaited else []
        wanted = self.wanted(message)
        is_done = run.is_over or wanted in entries
        if isinstance(wanted, Paused) and not is_done:
            is_undone = any(isinstance(entry, Unpaused) for entry in entries)
            is_done = is_undone or all(_has_pause(run, name) for name in _meant(run, wanted.branch))
        if isinstance(wanted, Unpaused) and not is_done:
            is_undone = any(isinstance(entry, Paused) for entry in entries)
            is_done = is_undone or not any(_has_pause(run, name) for name in _meant(run, wanted.branch))
        return [] if is_done else [f"{message.kind} {message.id} is gone without effect"]

    def first(self, name: str, *, but: set[int]) -> InboxRow | None:
        """The signal of that name that is next in turn, besides those numbers."""
        mine = (m for m in self.pending.values() if m.kind == SIGNAL and m.name == name and m.seq not in but)
        return min(mine, key=lambda message: message.seq, default=None)

    def wanted(self, message: InboxRow) -> Entry:
        """The entry that a control asks for."""
        return decode_entry(message.payload, run_id=self._run_id, position=0)

    def controls(self) -> list[Entry]:
        """What is asked of the run and not yet recorded, in order."""
        rows = sorted(self.pending.values(), key=lambda message: message.seq)
        return [self.wanted(row) for row in rows if row.kind not in {SIGNAL, OUTCOME}]

    def outcomes(self) -> list[int]:
        """Numbers of the outcomes of children that the run has not heard of."""
        return [seq for seq, message in self.pending.items() if message.kind == OUTCOME]

    def wants_cancel(self) -> bool:
        """Whether somebody was told that it is going to be cancelled."""
        return any(isinstance(wanted, RunCancelled) for wanted in self.controls())

    def pauses(self, run: Run, branch: str) -> bool:
        """Whether the branch will be paused, once all that is pending is recorded."""
        by_run, by_branch = _has_pause(run, ""), _has_pause(run, branch)
        for wanted in self.controls():
            if isinstance(wanted, Paused | Unpaused):
                is_pause = isinstance(wanted, Paused)
                if not wanted.branch:
                    by_run, by_branch = is_pause, by_branch and is_pause
                elif branch in _meant(run, wanted.branch):
                    by_branch = is_pause
        return by_run or by_branch

    def awaited(self, run: Run) -> list[int]:
        """Numbers of pending signals that branches wait for, first in, first out."""
        waits = Counter(run.waits.values())
        found: list[int] = []
        for seq in sorted(self.pending) if waits else ():
            message = self.pending[seq]
            if message.kind == SIGNAL and waits[message.name] > 0:
                waits[message.name] -= 1
                found.append(seq)
        return found


def taken_by(entry: Entry) -> tuple[int, bytes | None] | None:
    """Number of the message that an entry takes out of the inbox, with the payload if that is a signal's."""
    match entry:
        case SignalReceived():
            return entry.seq, entry.payload
        case OperationCompleted() if entry.seq:
            return entry.seq, entry.output if entry.kind == "wait_signal" else None
        case OperationFailed() if entry.seq:
            return entry.seq, None
        case _:
            return None


def _has_pause(run: Run, branch: str) -> bool:
    if not branch:
        return run.pause is not None
    known = run.branches.get(branch)
    return known is not None and known.status in OPEN and known.pause is not None


def _meant(run: Run, branch: str) -> list[str]:
    """Who is paused when that branch is: itself, or where it is over by now, those that it has started."""
    if not branch:
        return [""]
    known = run.branches.get(branch)
    if known is None or known.status in OPEN:
        return [] if known is None else [branch]
    children = [each.id for each in run.branches.values() if each.parent == branch]
    return [name for child in children for name in _meant(run, child)]
