"""The messages of a run, from the moment in which the store has them: none is lost, none counts twice."""

from collections import Counter
from collections.abc import Sequence

from holdfast.codecs.entries import decode_entry
from holdfast.core.entries import Entry, Paused, RunCancelled, SignalReceived, Unpaused
from holdfast.core.run import OPEN, Run
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import InboxRow

SIGNAL = "signal"


class Mail:
    """What one incarnation of a run was sent (invariants 19 to 21, 30 and 31).

    Attributes:
        pending: Messages in the store, by number.
        ids: Of all that were ever stored, with name and payload.
        sent: How many they are.
        since_s: When each pending one was stored, in virtual time.
    """

    def __init__(self, run_id: str) -> None:
        """None was sent yet."""
        self.pending: dict[int, InboxRow] = {}
        self.ids: dict[str, tuple[str, bytes]] = {}
        self.sent = 0
        self.since_s: dict[int, float] = {}
        self._run_id = run_id

    def see(self, row: Row, entries: Sequence[Entry], *, was_over: bool, run: Run, now_s: float) -> list[str]:
        """Take in what a transaction has made of the inbox, with the entries it has appended."""
        wrong: list[str] = []
        for message in row.inbox:
            if message.seq > self.sent:
                if message.id in self.ids:
                    wrong.append(f"message {message.id} is stored twice")
                if was_over:
                    wrong.append(f"message {message.id} is stored in a run that is over")
                self.sent = message.seq
                self.ids[message.id] = (message.name, message.payload)
                self.pending[message.seq] = message
                self.since_s[message.seq] = now_s
        if row.messages_sent != self.sent:
            wrong.append(f"{row.messages_sent} messages were sent, and {self.sent} were seen")
        received = [entry for entry in entries if isinstance(entry, SignalReceived)]
        gone = self.pending.keys() - {message.seq for message in row.inbox}
        for seq in sorted(gone):
            wrong += self._gone(self.pending.pop(seq), received, entries, run)
        left = [entry.seq for entry in received if entry.seq not in gone]
        if left:
            wrong.append(f"received {left} without taking them out of the inbox")
        return wrong

    def _gone(
        self, message: InboxRow, received: Sequence[SignalReceived], entries: Sequence[Entry], run: Run
    ) -> list[str]:
        if message.kind == SIGNAL:
            given = [entry.payload for entry in received if entry.seq == message.seq]
            return [] if given == [message.payload] else [f"{message} is gone, and {len(given)} entries say so"]
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
        return [self.wanted(row) for row in rows if row.kind != SIGNAL]

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
