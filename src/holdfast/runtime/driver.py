"""Drives one run: take the events at hand, decide, append, evolve, carry out what is owed.

The driver is an object that is called, not a task. Each active branch has one asyncio task, which makes the
attempts inline and awaits one future per append. A run has one append in flight at most; events that
arrive meanwhile wait and are decided together. No effect is carried out before its entries are durable.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from holdfast.codecs.entries import encode_entry
from holdfast.codecs.snapshots import encode_run
from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import Entry, Failure, StepCompleted
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.header import Header, header_after
from holdfast.core.run import OVER, Run, evolve, owed, owed_after
from holdfast.definition.policies import FATAL
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext
from holdfast.runtime.limits import ATTEMPTS_PER_TURN, LINGER_MS, SNAPSHOT_BYTES_MIN
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import SUSPECT_AT, Append, Applied, Outcome, Refused, RunRecord

Outcomes = AttemptSucceeded | AttemptFailed
Next = asyncio.Future[StartAttempt | None] | StartAttempt | None


class Host(Protocol):
    """What a driver needs of its worker."""

    group: GroupCommit
    attempts: Attempts
    is_draining: bool
    has_lapsed: Callable[[], bool]

    def now_ms(self) -> int:
        """The store's clock."""
        ...

    def nudge(self) -> None:
        """Something that may be claimed has changed."""
        ...

    def spawn(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a branch in a task that the worker owns."""
        ...

    def save_snapshot(self, driver: "Driver", state: bytes) -> None:
        """Keep the encoded state of the run at its position, when there is time; it may be lost."""
        ...

    def left(self, driver: "Driver", *, due_at_ms: int | None) -> None:
        """The driver is done: its run is over, given back (due then), or no longer ours."""
        ...

    def begin_when_free(self, driver: "Driver", effect: StartAttempt) -> None:
        """Call `driver.begin(effect)` now, or when a slot is free."""
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
        is_suspect: Whether its workers have died so often, with no step completed since, that it may be why.
    """

    __slots__ = (
        "_answer",
        "_dropped",
        "_events",
        "_facts",
        "_host",
        "_live",
        "_loop",
        "_occupies",
        "_replies",
        "_sent",
        "_sent_events",
        "_sent_leaves",
        "_timers",
        "_unsaved_bytes",
        "_unsaved_bytes_max",
        "bound",
        "is_suspect",
        "record",
        "run",
    )

    def __init__(self, host: Host, record: RunRecord, run: Run, bound: BoundWorkflow) -> None:
        """Args: the worker, the claimed row, the folded journal, and the code."""
        self._host = host
        self.record = record
        self.run = run
        self.bound = bound
        self.is_suspect = record.recoveries >= SUSPECT_AT
        workflow = bound.workflow
        self._facts = RunFacts(record.id, record.incarnation, workflow.name, workflow.metadata)
        self._loop = asyncio.get_running_loop()
        self._events: list[Outcomes] = []
        self._sent: list[Entry] | None = None
        self._sent_events: list[Outcomes] = []
        self._sent_leaves = False
        self._live: dict[str, asyncio.Task[None]] = {}
        self._replies: dict[str, asyncio.Future[StartAttempt | None] | None] = {}
        self._answer: StartAttempt | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._occupies = False
        self._dropped = False
        self._unsaved_bytes = 0
        self._unsaved_bytes_max = SNAPSHOT_BYTES_MIN

    @property
    def is_busy(self) -> bool:
        """Whether a body runs or a commit is under way."""
        return bool(self._live) or self._sent is not None

    def start(self) -> None:
        """Carry out everything that is owed; a run with nothing to do for long is given back."""
        for effect in owed(self.run):
            self._carry_out(effect)
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
        branches, steps, facts = self.run.branches, self.bound.steps, self._facts
        make, has_lapsed = self._host.attempts.make, self._host.has_lapsed
        made = 0
        while effect is not None and not has_lapsed():
            CURRENT.set(TaskContext(facts, effect))
            event = await make(effect, steps[effect.step], branches[effect.branch].value)
            answer = self._report(event)
            effect = answer if answer is None or isinstance(answer, StartAttempt) else await answer
            made += 1
            if made % ATTEMPTS_PER_TURN == 0:
                # Where nothing above had to wait, others in this loop have not had their turn.
                await asyncio.sleep(0)

    def _report(self, event: Outcomes) -> Next:
        """Take an outcome; gives the branch's next attempt, or None, once it is committed."""
        branch = event.branch
        if self._dropped:
            return None  # a body that was told to stop has answered all the same
        if self._sent is None:
            self._replies[branch] = self._answer = None
            self._append([event])
            if branch not in self._replies:
                return self._answer  # an instant store has committed it already
        else:
            self._events.append(event)
        future: asyncio.Future[StartAttempt | None] = self._loop.create_future()
        self._replies[branch] = future
        return future

    def _append(self, events: list[Outcomes]) -> None:
        entries = decide(self.bound.workflow, self.run, events)
        self._sent_events = events
        if entries:
            self._submit(entries, header_after(self.run, entries))
        else:
            self._settle(entries)

    def _submit(self, entries: list[Entry], header: Header) -> None:
        status, record = header.status, self.record
        read: int | None = record.messages_sent
        leaves = False
        if status != "running":
            over = status in OVER
            read = None if over else read
            leaves = over or (status == "suspended" and self._may_park(header))
        self._sent, self._sent_leaves = entries, leaves
        encoded = [encode_entry(entry) for entry in entries]
        self._unsaved_bytes += sum(map(len, encoded))
        append = Append(
            record.key,
            record.epoch,
            self.run.position,
            encoded,
            status,
            header.due_at_ms,
            None if leaves else record.worker,
            header.due_in_ms,
            header.completes,
            read,
        )
        self._host.group.submit(append, self._committed)

    def _committed(self, outcome: Outcome) -> None:
        entries, self._sent = self._sent, None
        if entries is None:
            return
        if type(outcome) is Applied:
            run, at_ms = self.run, outcome.at_ms
            for entry in entries:
                evolve(run, entry, at_ms)
            if self.is_suspect:
                self._clear(entries)
            if self._sent_leaves:
                self._leave()
            else:
                if self._unsaved_bytes > self._unsaved_bytes_max:
                    self._take_snapshot()
                self._settle(entries)
        elif isinstance(outcome, Refused) and entries:
            self._refused(outcome)
        else:
            self.drop()
            self._host.left(self, due_at_ms=None)

    def _clear(self, entries: list[Entry]) -> None:
        """A suspect that completes a step is none any more."""
        if any(isinstance(entry, StepCompleted) for entry in entries):
            self.is_suspect = False
            self._host.nudge()

    def _take_snapshot(self) -> None:
        """Cache the state; the next one only after as many journal bytes as this one has."""
        state = encode_run(self.run)
        self._unsaved_bytes = 0
        self._unsaved_bytes_max = max(len(state), SNAPSHOT_BYTES_MIN)
        self._host.save_snapshot(self, state)

    def _settle(self, entries: list[Entry]) -> None:
        """Start what a commit has made possible, and answer the branches whose events were in it."""
        for effect in owed_after(self.run, entries):
            self._carry_out(effect)
        if self._replies:
            for event in self._sent_events:
                if event.branch in self._replies:
                    self._reply(event.branch, None)
        if self._events:
            events, self._events = self._events, []
            self._append(events)
        elif not self._live:
            self._idle()

    def _carry_out(self, effect: Effect) -> None:
        if self._host.is_draining:
            return
        if isinstance(effect, ArmTimer):
            self._arm(effect)
        elif effect.branch in self._replies:
            self._reply(effect.branch, effect)
        else:
            self._spawn(effect)

    def _reply(self, branch: str, effect: StartAttempt | None) -> None:
        """Answer the task that waits for its commit, or that is about to."""
        future = self._replies.pop(branch)
        if effect is None:
            del self._live[branch]
        if future is None:
            self._answer = effect
        elif not future.done():
            future.set_result(effect)

    def _spawn(self, effect: StartAttempt) -> None:
        self._live[effect.branch] = self._host.spawn(self._drive(effect))
        self._note_slot()

    def _arm(self, effect: ArmTimer) -> None:
        wait_ms = max(effect.due_at_ms - self._host.now_ms(), 0)
        handle = self._loop.call_later(wait_ms / 1_000, self._fire, effect)
        self._timers[effect.then.branch] = handle

    def _fire(self, effect: ArmTimer) -> None:
        if self._sent is not None and self._sent_leaves:
            # The run is being given back. Once that is known, this driver ends; if it failed, it goes on.
            handle = self._loop.call_later(LINGER_MS / 1_000, self._fire, effect)
            self._timers[effect.then.branch] = handle
            return
        # Only the store's clock decides what is due; the loop's timer may be a little ahead of it.
        if self._host.now_ms() < effect.due_at_ms:
            self._arm(effect)
            return
        del self._timers[effect.then.branch]
        if self._occupies:
            self.begin(effect.then)
        else:
            self._host.begin_when_free(self, effect.then)

    def begin(self, effect: StartAttempt) -> None:
        """Start an attempt that waited for its due time and a slot; nothing if the run was dropped."""
        if not self._host.is_draining and not self._dropped:
            self._spawn(effect)

    def _may_park(self, header: Header) -> bool:
        """Whether a suspended run should be given back: nothing runs, and nothing is due soon."""
        if len(self._live) > len(self._replies) or self._events:
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
        if header.status == "suspended" and not self._host.is_draining and self._may_park(header):
            self._sent_events = []
            self._submit([], header)

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
        failed: list[Outcomes] = [
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
        waiting, self._events = self._events, []
        self._append(failed + waiting)

    def _leave(self) -> None:
        due_at_ms = None if self.run.is_over else self.run.due_at_ms
        for event in self._sent_events:
            self._reply(event.branch, None)
        self.drop()
        self._host.left(self, due_at_ms=due_at_ms)
