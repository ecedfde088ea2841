"""What the simulator knows of each run from watching the database: its journal, folded, and its holders."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_entry
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    Control,
    Entry,
    Failure,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    RetryScheduled,
    RunBlocked,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    WaitTimedOut,
)
from holdfast.core.evolve import evolve
from holdfast.core.invariants import check
from holdfast.core.owed import owed
from holdfast.core.run import ATTEMPTING, OPEN, Run
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import QUARANTINE_AT, JournalRow
from holdfast.testing.simulator.asked import Asking
from holdfast.testing.simulator.clocks import Clocks
from holdfast.testing.simulator.deeds import Deed
from holdfast.testing.simulator.mail import Mail
from holdfast.testing.simulator.performing import Called, Performing
from holdfast.testing.simulator.ports import THREAD_WAIT_S
from holdfast.testing.simulator.programs import TIMED_OUT, Program
from holdfast.testing.simulator.reading import Read
from holdfast.testing.simulator.steps import Step

Completing = StepCompleted | SleepEnded | SignalReceived | WaitTimedOut | OperationCompleted | OperationFailed
"""What shows that a run gets on."""


T = TypeVar("T")
DECODE = codec.decoder(Any)


class Shadow:
    """One incarnation of a run as it was seen last, and the rules for how it may change.

    Attributes:
        run: The fold of the journal.
        incarnation, epoch: Of the row.
        mail: Its messages.
        performing: Its durable functions.
        ended: Attempts whose outcome was recorded in the transaction seen last, with the failure.
        clocks: Its clocks.
        holders: Workers by epoch.
        held_s: Since when it has the last one.
        changed_s: When anything about it changed last.
        started: Attempts by epoch in which their body was called.
        deeds: What the body of each attempt does.
        calls: How often it was called, since the run was opened again so often.
        returned: Attempts whose body has returned.
        kills: Processes that its bodies have taken down since a step completed.
        is_told: Whether the holder has heard of the last commit; until then it goes by what was owed before.
        told_s: When it was told last.
        reopened: How often it was.
        is_restarted: Whether somebody has put it in the place of another one.
        received: What its waits ended with, by step and visit.
        asked: Who has asked something of it, by what was recorded or stored.
        statuses, pauses: What its row has said, and what of it was paused, each since a moment of virtual time.
        began_s, ended_s: When it was inserted; and replaced or deleted, or None.
        outputs: What it has come to.
        barred: Attempts that were owed only after a pause was there, which may not start.
    """

    def __init__(
        self, row: Row, now_s: float, program: Program, *, epoch: int = 0, before: "Shadow | None" = None
    ) -> None:
        """A run of `program` that was just inserted, before `see`.

        `epoch` is the last of the incarnation before; `before` is that one, if it has begun anew: its messages
        are kept, and its input is that of callers.
        """
        self.run = Run(row.new.id)
        self.incarnation = row.incarnation
        self.epoch = epoch
        self.mail: Mail = Mail(self.run.id, None if before is None else before.mail)
        self._before = before
        self.is_restarted = row.incarnation > 1 and before is None
        self.performing = Performing(program.durables)
        self.ended: list[tuple[Called, Failure | None]] = []
        self.clocks = Clocks()
        self.holders: dict[int, str] = {}
        self.held_s = self.changed_s = now_s
        self.started: set[tuple[Called, int]] = set()
        self.deeds: dict[Called, tuple[Step, Deed]] = {}
        self.calls: Counter[tuple[Called, int]] = Counter()
        self.returned: set[Called] = set()
        self.kills: set[str] = set()
        self.is_told = True
        self.told_s = now_s
        self.reopened = 0
        self.received: dict[tuple[str, int], object] = {}
        self.asked: set[str] = set()
        self.statuses: list[tuple[float, str]] = []
        self.pauses: list[tuple[float, frozenset[str]]] = []
        self.outputs: list[object] = []
        self.began_s = now_s
        self.ended_s: float | None = None
        self.barred: set[Called] = set()
        self._program = program
        self._owed: set[Called] = set()
        self._owed_before: list[Effect] = []
        self._journal: list[JournalRow] = []
        self._worker: str | None = None
        self._recoveries = 0
        self._seen: tuple[object, ...] = ()

    def see(self, row: Row, *, now_s: float, now_ms: int, reaping: bool) -> tuple[list[Entry], list[str]]:
        """Take in what a transaction made of the row; gives the new entries, and what is wrong."""
        seen = (
            len(row.journal),
            row.worker,
            row.epoch,
            row.status,
            row.due_at_ms,
            row.recoveries,
            row.messages_sent,
            len(row.inbox),
        )
        self.mail.fresh = []
        if seen == self._seen and row.position == len(row.journal):
            return [], []
        self._seen, self.changed_s = seen, now_s
        was_over = self.run.is_over
        entries, wrong = self._read(row, now_s)
        wrong += self.mail.see(row, entries, self.asking, was_over=was_over, run=self.run, now_s=now_s)
        wrong += self._holder(row, now_s)
        wrong += self._charges(row, entries, reaping=reaping)
        wrong += self._header(row, now_ms)
        self.epoch, self._worker, self._recoveries = row.epoch, row.worker, row.recoveries
        self.asked.update(each.by for each in [*entries, *self.mail.controls()] if isinstance(each, Control))
        _note(self.statuses, now_s, row.status)
        _note(self.pauses, now_s, self.paused())
        self._bar()
        return entries, wrong

    @property
    def ordered(self) -> bytes:
        """The input that somebody has given, encoded."""
        return self.run.input if self._before is None else self._before.ordered

    @property
    def asking(self) -> Asking:
        """What its bodies have asked for."""
        return self.performing.asking

    @property
    def reads(self) -> Mapping[str, Read]:
        """What came of reading its functions, by branch."""
        return self.performing.reads

    def was(self, statuses: Sequence[str], since_s: float) -> bool:
        """Whether its row has said one of these at any time since then."""
        return any(status in statuses for status in self._during(self.statuses, since_s))

    def was_paused(self, branch: str, since_s: float, *, is_paused: bool = True) -> bool:
        """Whether the branch, or with "" the run, had a pause of its own at any time since; or had none."""
        return any((branch in names) is is_paused for names in self._during(self.pauses, since_s))

    def lived(self, since_s: float) -> bool:
        """Whether it was there at any time since then."""
        return self.ended_s is None or self.ended_s >= since_s

    def _during(self, log: Sequence[tuple[float, T]], since_s: float) -> Iterator[T]:
        ends = [*(began_s for began_s, _ in log[1:]), float("inf") if self.ended_s is None else self.ended_s]
        return (value for (_, value), end_s in zip(log, ends, strict=True) if end_s >= since_s)

    def is_held(self, branch: str) -> bool:
        """Whether a pause of the run, or of the branch, is recorded."""
        return bool({"", branch} & self.paused())

    def paused(self) -> frozenset[str]:
        """Which branches have a pause of their own, and "" for the run."""
        branches = self.run.branches.values()
        names = {branch.id for branch in branches if branch.pause is not None and branch.status in OPEN}
        return frozenset(names if self.run.pause is None else {"", *names})

    def _read(self, row: Row, now_s: float) -> tuple[list[Entry], list[str]]:
        """Invariants 2, 3, 5, 14, 15, 17, 20, 23, 29: the journal only grows, by entries that are due now."""
        wrong: list[str] = []
        self.ended = []
        known = len(self._journal)
        if row.journal[:known] != self._journal:
            wrong.append("a journal has changed")
        if row.position != len(row.journal):
            wrong.append(f"position {row.position} with {len(row.journal)} entries")
        added = row.journal[known:]
        if not added:
            return [], wrong
        self.is_told, self._owed_before = False, owed(self.run)
        self._journal = list(row.journal)
        if any(each.epoch not in {0, row.epoch} for each in added):
            wrong.append(f"entries of another epoch than {row.epoch}")
        entries: list[Entry] = []
        taken: set[int] = set()
        for each in added:
            entry = decode_entry(each.entry, run_id=self.run.id, position=each.position)
            entries.append(entry)
            wrong += self._take(entry, each.position, each.at_ms, taken)
        wrong += self.performing.reread(self.run, now_s)
        return entries, wrong + check(self.run) + self.clocks.differences(self.run)

    def _take(self, entry: Entry, position: int, at_ms: int, taken: set[int]) -> list[str]:
        """Take in one entry; gives what is wrong with it."""
        performing = self.performing
        early = self.clocks.wrong(entry, at_ms)
        wrong = self._misplaced(entry) + ([] if early is None else [early])
        if isinstance(entry, OperationCompleted | OperationFailed):
            wrong += self._received_by_body(entry, taken)
        else:
            wrong += self._received(entry, taken)
        wrong += performing.wrong(entry, self.run)
        self._attempted(entry)
        performing.see(entry, position, self.run)
        evolve(self.run, entry, at_ms)
        wrong += performing.differs(entry, self.run)
        self.clocks.see(entry, at_ms)
        if self._program.durables:
            self.clocks.keep({place for place, _ in self.asking.pending()})
        return wrong

    def _attempted(self, entry: Entry) -> None:
        """Note the outcome of an attempt of a task step, or of what a body has asked for as one."""
        steps = self._program.steps
        match entry:
            case StepCompleted() if entry.step in steps:
                at = StartAttempt(entry.branch, entry.step, entry.visit, entry.attempt)
                self.ended.append((Called(at), None))
            case RetryScheduled() | RunFailed() if entry.step in steps:
                attempt = entry.attempt - isinstance(entry, RetryScheduled)
                at = StartAttempt(entry.branch, entry.step, entry.visit, attempt)
                self.ended.append((Called(at), entry.failure))
            case StepCompleted() if entry.step in self._program.durables:
                self.received[entry.step, entry.visit] = DECODE(entry.output)
            case OperationCompleted(kind="step"):
                self.ended.append((self.performing.called(entry, self.run), None))
            case OperationFailed(kind="step") | OperationRetried():
                self.ended.append((self.performing.called(entry, self.run), entry.failure))
            case _:
                pass

    def _misplaced(self, entry: Entry) -> list[str]:
        if isinstance(entry, RunBlocked):
            return [f"nobody has changed its code: {entry!r}"]
        if isinstance(entry, RunReopened):
            self.reopened += 1
            return [] if self.run.status == "failed" else [f"{entry!r} of a run that is {self.run.status}"]
        if self.run.is_over or (isinstance(entry, RunStarted) and self.run.position):
            return [f"an entry after the end, or another beginning: {entry!r}"]
        if isinstance(entry, RunCompleted | RunFailed) and self.mail.wants_cancel():
            return [f"{entry!r} of a run that somebody has cancelled before"]
        if not isinstance(entry, StepCompleted | RetryScheduled | RunFailed) or not entry.branch:
            return []
        return self._unowed(entry)

    def _unowed(self, entry: StepCompleted | RetryScheduled | RunFailed) -> list[str]:
        branch = self.run.branches[entry.branch]
        if branch.status not in ATTEMPTING and isinstance(entry, RunFailed):
            return []  # of a wait or a join
        attempt = entry.attempt - 1 if isinstance(entry, RetryScheduled) else entry.attempt
        at = branch.at
        is_owed = at is not None and (at.step, at.visit, branch.attempt) == (entry.step, entry.visit, attempt)
        return [] if is_owed and branch.status in ATTEMPTING else [f"nobody owes {entry!r}"]

    def _received(self, entry: Entry, taken: set[int]) -> list[str]:
        """Invariants 20 and 23: who waits gets the signal that is first in turn, or times out."""
        if not isinstance(entry, SignalReceived | WaitTimedOut):
            return []
        branch = self.run.branches.get(entry.branch)
        at = None if branch is None else branch.at
        if branch is None or at is None or branch.status != "waiting" or at.wait is None:
            return [f"nobody waits for {entry!r}"]
        if (at.step, at.visit) != (entry.step, entry.visit):
            return [f"{branch.id} waits at {at.step} {at.visit}: {entry!r}"]
        first = self.mail.first(at.wait.signal, but=taken)
        if isinstance(entry, WaitTimedOut):
            self.received[entry.step, entry.visit] = TIMED_OUT
            return [] if first is None else [f"timed out beside signal {first.id}, which was there before"]
        taken.add(entry.seq)
        self.received[entry.step, entry.visit] = DECODE(entry.payload)
        if first is None or first.seq != entry.seq:
            return [f"first in turn is {first and first.seq}: {entry!r}"]
        return []

    def _received_by_body(self, entry: OperationCompleted | OperationFailed, taken: set[int]) -> list[str]:
        """The same for the body of a step that waits."""
        asked = self.asking.of(entry.branch).get(entry.key)
        if asked is None or entry.kind != "wait_signal":
            return []
        first = self.mail.first(asked.signal, but=taken)
        if isinstance(entry, OperationFailed):
            return [] if first is None else [f"timed out beside signal {first.id}, which was there before"]
        taken.add(entry.seq)
        is_right = first is not None and first.seq == entry.seq
        return [] if is_right else [f"first in turn is {first and first.seq}: {entry!r}"]

    def _holder(self, row: Row, now_s: float) -> list[str]:
        """Invariants 8 and 9: epochs grow, each has one holder, and a held run is freed before it is taken."""
        if row.epoch < self.epoch:
            return [f"epoch fell from {self.epoch} to {row.epoch}"]
        if row.worker is None:
            return []
        if self._worker is not None and (self._worker, self.epoch) != (row.worker, row.epoch):
            return [f"taken from {self._worker} by {row.worker} without being freed"]
        if self._worker is None and self.epoch == row.epoch and self.run.position and self.holders:
            return [f"held by {row.worker} under the old epoch {row.epoch}"]
        if row.epoch not in self.holders:
            self.holders[row.epoch], self.held_s = row.worker, now_s
        return []

    def _charges(self, row: Row, entries: Sequence[Entry], *, reaping: bool) -> list[str]:
        """Invariant 33: only a dead worker is charged, once, and a completed step forgives all."""
        completes = any(isinstance(entry, Completing) for entry in entries)
        if completes:
            self.kills.clear()
        if row.recoveries == (0 if completes else self._recoveries):
            return []
        if reaping and row.recoveries == self._recoveries + 1:
            return []
        return [f"recoveries went from {self._recoveries} to {row.recoveries}"]

    def _header(self, row: Row, now_ms: int) -> list[str]:
        """Invariants 4 and 21, and what a row can show of 32: who has something to do is held or due."""
        run, due = self.run, row.due_at_ms
        if row.status == "blocked":
            is_right = row.recoveries >= QUARANTINE_AT and (row.worker is not None or due is None)
            return [] if is_right else [f"blocked with {row.recoveries} recoveries, due {due}"]
        if run.is_over:
            is_right = (row.status, row.worker, due) == (run.status, None, None)
            return [] if is_right else [f"{run.status}, and the row is {row.status}, {row.worker}, due {due}"]
        is_new = all(each.epoch == 0 for each in row.journal) and row.status in {"pending", "running"}
        if row.status != run.status and not is_new:
            return [f"{run.status}, and the row is {row.status}"]
        return [] if row.worker is not None else self._idle(due, now_ms)

    def _idle(self, due: int | None, now_ms: int) -> list[str]:
        """Of a run that nobody holds."""
        run = self.run
        if self.mail.awaited(run) or self.mail.controls() or self.mail.outcomes():
            return [] if due is not None and due <= now_ms else [f"due at {due}, and messages are there for it"]
        if run.due_at_ms is None or (due is not None and due <= max(run.due_at_ms, now_ms)):
            return []
        return [f"nobody holds it, and it is due at {due} instead of {run.due_at_ms}"]

    def _bar(self) -> None:
        """Invariant 31: what is owed only since a pause was stored may not start before that one is over."""
        now = set(self.performing.nexts.steps)
        for effect in owed(self.run):
            start = effect.then if isinstance(effect, ArmTimer) else effect
            if isinstance(start, StartAttempt) and start.step not in self._program.durables:
                now.add(Called(start))
        known, self._owed = self._owed, now
        if not self.mail.pending:
            self.barred.clear()
            return
        fresh = self.barred | (now - known)
        self.barred = {each for each in fresh & now if self.mail.pauses(self.run, each.at.branch)}

    def why_not(self, step: Step, called: Called, argument: object, now: tuple[float, int]) -> str | None:
        """Why the journal owes no such attempt now (invariants 13, 15, 16 and 31), or None if it does.

        `now` is virtual time, and the store's in ms.
        """
        now_s, now_ms = now
        if called in self.barred:
            return "a pause was there before the commit that owes it"
        # A body is called a moment after its holder has told it to, in a thread a little later.
        is_told = self.is_told and now_s > self.told_s + (0 if step.is_async else THREAD_WAIT_S)
        if called.key:
            return self.performing.why_not(called, argument, self.clocks, now, is_told=is_told)
        for each in owed(self.run) + ([] if is_told else self._owed_before):
            if each == called.at:
                return None
            if isinstance(each, ArmTimer) and each.then == called.at:
                late_ms = now_ms - each.due_at_ms
                return None if late_ms >= 0 else f"it is {-late_ms} ms early"
        return f"owed are {owed(self.run)}, status {self.run.status}"


def _note(log: list[tuple[float, T]], now_s: float, value: T) -> None:
    if not log or log[-1][1] != value:
        log.append((now_s, value))
