"""Drives one run: take the events at hand, decide, append, evolve, carry out what is owed.

The driver is an object that is called, not a task. Each active branch has one asyncio task, which makes the
attempts inline and awaits one future per append. A run has one append in flight at most; events that
arrive meanwhile wait and are decided together. No effect is carried out before its entries are durable.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from holdfast.codecs.entries import encode_entry
from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import Entry, Failure, RetryScheduled, RunCompleted, RunFailed
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.header import Header, header_after
from holdfast.core.run import OVER, Run, evolve, owed, owed_by
from holdfast.definition.policies import FATAL
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.context import CURRENT, TaskContext
from holdfast.runtime.limits import LINGER_MS
from holdfast.stores.base import Append, Applied, Outcome, Refused, RunRecord
from holdfast.stores.group_commit import GroupCommit

Outcomes = AttemptSucceeded | AttemptFailed


class Host(Protocol):
    """What a driver needs of its worker."""

    worker_id: str
    group: GroupCommit
    attempts: Attempts
    is_draining: bool

    def now_ms(self) -> int:
        """The store's clock."""
        ...

    def spawn(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a branch in a task that the worker owns."""
        ...

    def left(self, driver: "Driver", *, due_at_ms: int | None) -> None:
        """The driver is done: its run is over, given back (due then), or no longer ours."""
        ...

    def occupy(self, slots: int) -> None:
        """A driver has begun (1) or ceased (-1) to occupy a slot."""
        ...


class Driver:
    """One run that this worker holds.

    Attributes:
        run: Its state; only commits change it.
        record: The header row as claimed: key, epoch, incarnation.
        bound: The workflow it is pinned to.
    """

    __slots__ = (
        "_dropped",
        "_events",
        "_host",
        "_live",
        "_occupies",
        "_replies",
        "_sent",
        "_sent_events",
        "_sent_parks",
        "_timers",
        "bound",
        "record",
        "run",
    )

    def __init__(self, host: Host, record: RunRecord, run: Run, bound: BoundWorkflow) -> None:
        """Args: the worker, the claimed row, the folded journal, and the code."""
        self._host = host
        self.record = record
        self.run = run
        self.bound = bound
        self._events: list[Outcomes] = []
        self._sent: list[Entry] | None = None
        self._sent_events: list[Outcomes] = []
        self._sent_parks = False
        self._live: dict[str, asyncio.Task[None]] = {}
        self._replies: dict[str, asyncio.Future[StartAttempt | None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._occupies = False
        self._dropped = False

    @property
    def is_busy(self) -> bool:
        """Whether a body runs or a commit is under way."""
        return bool(self._live) or self._sent is not None

    def start(self) -> None:
        """Carry out everything that is owed; a run with nothing to do for long is given back."""
        self._carry_out(owed(self.run))
        if not self._live:
            self._idle()

    def drop(self) -> None:
        """Cancel everything without a trace: the run is not ours any more, or will be given back."""
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        for task in self._live.values():
            task.cancel()
        self._live.clear()
        self._replies.clear()
        self._events.clear()
        self._sent = None
        self._dropped = True
        self._note_slot()

    async def _drive(self, effect: StartAttempt | None) -> None:
        """The life of a branch's task: attempt after attempt, each after the commit of the one before."""
        run, host, steps = self.run, self._host, self.bound.steps
        workflow = self.bound.workflow
        while effect is not None:
            branch, step = effect.branch, effect.step
            context = TaskContext(
                run.id,
                self.record.incarnation,
                workflow.name,
                workflow.metadata,
                branch,
                step,
                effect.visit,
                effect.attempt,
            )
            CURRENT.set(context)
            event = await host.attempts.make(effect, steps[step], run.branches[branch].value)
            effect = await self._report(event)

    def _report(self, event: Outcomes) -> asyncio.Future[StartAttempt | None]:
        """Take an outcome; the future gives the branch's next attempt once it is committed, or None."""
        future: asyncio.Future[StartAttempt | None] = asyncio.get_running_loop().create_future()
        self._replies[event.branch] = future
        self._events.append(event)
        if self._sent is None:
            self._append()
        return future

    def _append(self) -> None:
        events, self._events = self._events, []
        entries = decide(self.bound.workflow, self.run, events)
        self._sent_events = events
        if entries:
            header = header_after(self.run, entries)
            self._submit(entries, header, parks=self._parks(header))
        else:
            self._settle(())

    def _submit(self, entries: list[Entry], header: Header, *, parks: bool) -> None:
        self._sent = entries
        self._sent_parks = parks
        over = header.status in OVER
        record = self.record
        append = Append(
            record.key,
            record.epoch,
            self.run.position,
            tuple([encode_entry(entry) for entry in entries]),
            header.status,
            header.due_at_ms,
            None if parks or over else self._host.worker_id,
            header.due_in_ms,
            header.completes,
            None if over else record.messages_sent,
        )
        self._host.group.submit(append, self._committed)

    def _committed(self, outcome: Outcome) -> None:
        if self._dropped:
            return
        entries, self._sent = self._sent or [], None
        if type(outcome) is Applied:
            for entry in entries:
                evolve(self.run, entry, outcome.at_ms)
            if self.run.is_over or self._sent_parks:
                self._leave()
            else:
                self._settle(entries)
        elif isinstance(outcome, Refused) and entries:
            self._refused(outcome)
        else:
            self.drop()
            self._host.left(self, due_at_ms=None)

    def _settle(self, entries: Iterable[Entry]) -> None:
        """Start what a commit has made possible, and answer the branches whose events were in it."""
        moved: dict[str, None] = {}
        for entry in entries:
            if isinstance(entry, RetryScheduled):
                moved[entry.branch] = None
            elif not isinstance(entry, RunCompleted | RunFailed):
                for arrival in entry.arrivals:
                    moved[arrival.branch] = None
        branches = self.run.branches
        effects = [effect for name in moved if (effect := owed_by(branches[name])) is not None]
        self._carry_out(effects)
        for event in self._sent_events:
            self._reply(event.branch, None)
        if self._events:
            self._append()
        elif not self._live:
            self._idle()

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        if self._host.is_draining:
            return
        for effect in effects:
            if isinstance(effect, ArmTimer):
                self._arm(effect)
            elif not self._reply(effect.branch, effect):
                self._spawn(effect)

    def _reply(self, branch: str, effect: StartAttempt | None) -> bool:
        """Answer the task that waits for its commit; False where there is none."""
        future = self._replies.pop(branch, None)
        if future is None:
            return False
        if effect is None:
            del self._live[branch]
        if not future.done():
            future.set_result(effect)
        return True

    def _spawn(self, effect: StartAttempt) -> None:
        self._live[effect.branch] = self._host.spawn(self._drive(effect))
        self._note_slot()

    def _arm(self, effect: ArmTimer) -> None:
        wait_ms = max(effect.due_at_ms - self._host.now_ms(), 0)
        handle = asyncio.get_running_loop().call_later(wait_ms / 1_000, self._fire, effect)
        self._timers[effect.then.branch] = handle

    def _fire(self, effect: ArmTimer) -> None:
        # Only the store's clock decides what is due; the loop's timer may be a little ahead of it.
        if self._host.now_ms() < effect.due_at_ms:
            self._arm(effect)
            return
        del self._timers[effect.then.branch]
        if not self._host.is_draining:
            self._spawn(effect.then)

    def _parks(self, header: Header) -> bool:
        """Whether this commit should give the run back: nothing runs, and nothing is due soon."""
        if header.status != "suspended" or len(self._live) > len(self._replies) or self._events:
            return False
        now_ms = self._host.now_ms()
        waits = [] if header.due_at_ms is None else [header.due_at_ms - now_ms]
        if header.due_in_ms is not None:
            waits.append(header.due_in_ms)
        return min(waits, default=LINGER_MS + 1) > LINGER_MS

    def _idle(self) -> None:
        """Nothing runs: free the slot, and give the run back if nothing is due soon."""
        self._note_slot()
        header = header_after(self.run, [])
        if not self._host.is_draining and self._parks(header):
            self._sent_events = []
            self._submit([], header, parks=True)

    def _note_slot(self) -> None:
        occupies = bool(self._live)
        if occupies is not self._occupies:
            self._occupies = occupies
            self._host.occupy(1 if occupies else -1)

    def _refused(self, outcome: Refused) -> None:
        """The store can never hold these entries: their steps fail instead (once; then the run is let go)."""
        events, self._sent_events = self._sent_events, []
        if all(isinstance(event, AttemptFailed) for event in events):
            self.drop()
            self._host.left(self, due_at_ms=None)
            return
        kind = type(outcome.error).__name__
        self._events[:0] = [
            AttemptFailed(
                event.branch,
                event.step,
                event.visit,
                event.attempt,
                Failure(kind, str(outcome.error), (kind, FATAL), step=event.step),
                0.0,
            )
            for event in events
        ]
        self._append()

    def _leave(self) -> None:
        due_at_ms = None if self.run.is_over else self.run.due_at_ms
        for event in self._sent_events:
            self._reply(event.branch, None)
        self.drop()
        self._host.left(self, due_at_ms=due_at_ms)
