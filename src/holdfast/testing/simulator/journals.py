"""What the simulator knows of each run from watching the database: its journal, folded, and its holders."""

from collections.abc import Sequence

from holdfast.codecs.entries import decode_entry
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import Entry, Failure, RetryScheduled, RunFailed, RunStarted, StepCompleted
from holdfast.core.invariants import check
from holdfast.core.run import OWING, Run, evolve, owed
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import QUARANTINE_AT

Attempt = tuple[str, str, str, int, int]
"""Run, branch, step, visit and attempt."""


class Shadow:
    """One run as it was seen last, and the rules for how it may change.

    Attributes:
        run: The fold of the journal.
        epoch: Of the row.
        holders: Workers by epoch.
        started: Attempts by epoch in which their body was called.
        kills: Processes that its bodies have taken down since a step completed.
        is_told: Whether the holder has heard of the last commit; until then it goes by what was owed before.
    """

    def __init__(self, row: Row) -> None:
        """A run that was just inserted, before `see`."""
        self.run = Run(row.new.id)
        self.epoch = 0
        self.holders: dict[int, str] = {}
        self.started: set[tuple[StartAttempt, int]] = set()
        self.kills: set[str] = set()
        self.is_told = True
        self._owed_before: list[Effect] = []
        self._journal: list[tuple[int, int, bytes]] = []
        self._worker: str | None = None
        self._recoveries = 0
        self._seen: tuple[object, ...] = ()

    def see(self, row: Row, *, now_ms: int, reaping: bool) -> tuple[list[Entry], list[str]]:
        """Take in what a transaction made of the row; gives the new entries, and what is wrong."""
        seen = (len(row.journal), row.worker, row.epoch, row.status, row.due_at_ms, row.recoveries)
        if seen == self._seen and row.position == len(row.journal):
            return [], []
        self._seen = seen
        entries, wrong = self._read(row)
        wrong += self._holder(row)
        wrong += self._charges(row, entries, reaping=reaping)
        wrong += self._header(row, now_ms)
        self.epoch, self._worker, self._recoveries = row.epoch, row.worker, row.recoveries
        return entries, wrong

    def _read(self, row: Row) -> tuple[list[Entry], list[str]]:
        """Invariants 2, 3, 5, 14, 15, 17 and 29: the journal only grows, by entries that are due now."""
        wrong: list[str] = []
        known = len(self._journal)
        if row.journal[:known] != self._journal:
            wrong.append("a journal has changed")
        if row.position != len(row.journal):
            wrong.append(f"position {row.position} with {len(row.journal)} entries")
        added = row.journal[known:]
        if added:
            self.is_told, self._owed_before = False, owed(self.run)
        self._journal = list(row.journal)
        if any(epoch not in {0, row.epoch} for epoch, _, _ in added):
            wrong.append(f"entries of another epoch than {row.epoch}")
        entries: list[Entry] = []
        for position, (_, at_ms, data) in enumerate(added, start=known + 1):
            entry = decode_entry(data, run_id=self.run.id, position=position)
            entries.append(entry)
            wrong += self._misplaced(entry)
            evolve(self.run, entry, at_ms)
        if added:
            wrong += check(self.run)
        return entries, wrong

    def _misplaced(self, entry: Entry) -> list[str]:
        if self.run.is_over:
            return [f"an entry after the end: {entry!r}"]
        if isinstance(entry, RunStarted):
            return ["started twice"] if self.run.position else []
        if not isinstance(entry, StepCompleted | RetryScheduled | RunFailed) or not entry.branch:
            return []
        branch = self.run.branches[entry.branch]
        attempt = entry.attempt - 1 if isinstance(entry, RetryScheduled) else entry.attempt
        at = branch.at
        is_owed = at is not None and (at.step, at.visit, branch.attempt) == (entry.step, entry.visit, attempt)
        return [] if is_owed and branch.status in OWING else [f"nobody owes {entry!r}"]

    def _holder(self, row: Row) -> list[str]:
        """Invariants 8 and 9: epochs grow, each has one holder, and a held run is freed before it is taken."""
        if row.epoch < self.epoch:
            return [f"epoch fell from {self.epoch} to {row.epoch}"]
        if row.worker is None:
            return []
        if self._worker is not None and (self._worker, self.epoch) != (row.worker, row.epoch):
            return [f"taken from {self._worker} by {row.worker} without being freed"]
        if self._worker is None and self.epoch == row.epoch and self.run.position and self.holders:
            return [f"held by {row.worker} under the old epoch {row.epoch}"]
        self.holders[row.epoch] = row.worker
        return []

    def _charges(self, row: Row, entries: Sequence[Entry], *, reaping: bool) -> list[str]:
        """Invariant 33: only a dead worker is charged, once, and a completed step forgives all."""
        completes = any(isinstance(entry, StepCompleted) for entry in entries)
        if completes:
            self.kills.clear()
        if row.recoveries == (0 if completes else self._recoveries):
            return []
        if reaping and row.recoveries == self._recoveries + 1:
            return []
        return [f"recoveries went from {self._recoveries} to {row.recoveries}"]

    def _header(self, row: Row, now_ms: int) -> list[str]:
        """Invariant 4, and the part of 32 that a row can show: who is not held is due, over or blocked."""
        run, due = self.run, row.due_at_ms
        if row.status == "blocked":
            is_right = row.recoveries >= QUARANTINE_AT and row.worker is None and due is None
            return [] if is_right else [f"blocked with {row.recoveries} recoveries, due {due}"]
        if run.is_over:
            is_right = (row.status, row.worker, due) == (run.status, None, None)
            return [] if is_right else [f"{run.status}, and the row is {row.status}, {row.worker}, due {due}"]
        if row.status != run.status and not (row.status == "pending" and row.epoch == 0):
            return [f"{run.status}, and the row is {row.status}"]
        latest_ms = max(run.due_at_ms or 0, now_ms)
        if row.worker is None and (due is None or due > latest_ms):
            return [f"nobody holds it, and it is due at {due} instead of {run.due_at_ms}"]
        return []

    def why_not(self, effect: StartAttempt, now_ms: int) -> str | None:
        """Why the journal owes no such attempt now (invariants 13, 15 and 16), or None if it does."""
        for each in owed(self.run) + ([] if self.is_told else self._owed_before):
            if each == effect:
                return None
            if isinstance(each, ArmTimer) and each.then == effect:
                late_ms = now_ms - each.due_at_ms
                return None if late_ms >= 0 else f"it is {-late_ms} ms early"
        return f"owed are {owed(self.run)}, status {self.run.status}"


def failures_in(entries: Sequence[Entry]) -> list[tuple[StartAttempt, Failure]]:
    """Attempts that are recorded as failed, with what is recorded."""
    failed: list[tuple[StartAttempt, Failure]] = []
    for entry in entries:
        if isinstance(entry, RetryScheduled):
            at = StartAttempt(entry.branch, entry.step, entry.visit, entry.attempt - 1)
            failed.append((at, entry.failure))
        elif isinstance(entry, RunFailed):
            failed.append((StartAttempt(entry.branch, entry.step, entry.visit, entry.attempt), entry.failure))
    return failed
