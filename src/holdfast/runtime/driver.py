"""Drives one run: take the events at hand, decide, append, evolve, carry out what is owed.

The driver is an object that is called, not a task; each active branch has one (`branches`). A run has one
append in flight at most; events that arrive meanwhile wait and are decided together. No effect is carried out
before its entries are durable, nor while the run has messages that were not read: an acknowledged pause holds.
"""

import asyncio
import logging
from collections.abc import Sequence

from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import Entry, Failure
from holdfast.core.events import (
    AttemptSucceeded,
    AttemptSuspended,
    CompletionRefused,
    Event,
    attempted,
)
from holdfast.core.evolve import evolve, go_straight_on
from holdfast.core.header import Header, header_after
from holdfast.core.owed import may_begin, owed, owed_after, passed
from holdfast.core.run import OVER, Branch, Run
from holdfast.core.steps import straight_on
from holdfast.errors import FormatError
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.bodies import Bodies
from holdfast.runtime.branches import Branches
from holdfast.runtime.completion import Hook
from holdfast.runtime.context import RunFacts
from holdfast.runtime.failures import all_refused
from holdfast.runtime.host import Host
from holdfast.runtime.inbox import Inbox, only_control, without_mail
from holdfast.runtime.limits import LINGER_MS
from holdfast.runtime.relatives import completed
from holdfast.runtime.sending import Sent, append_of, straight
from holdfast.runtime.snapshots import Snapshots
from holdfast.runtime.timers import Timers
from holdfast.stores.records import SUSPECT_AT, Applied, Outcome, Refused, RunRecord, Unread

LOGGER = logging.getLogger("holdfast.worker")
_LEAVING = frozenset({*OVER, "blocked"})
Entries = Sequence[Entry]
Events = Sequence[Event]


class Driver:
    """One run that this worker holds.

    Attributes:
        run: Its state; only commits change it.
        record: The header row as claimed: key, epoch, incarnation.
        bound: The workflow it is pinned to.
        is_dropped: Whether nothing is done for it any more.
        is_suspect: Whether its workers have died so often, with no step completed since, that it may be why.
    """

    __slots__ = (
        "_branches",
        "_events",
        "_facts",
        "_heard",
        "_hook",
        "_host",
        "_inbox",
        "_occupies",
        "_owes_all",
        "_reading",
        "_sent",
        "_snapshots",
        "_timers",
        "_told",
        "_when_committed",
        "bound",
        "is_dropped",
        "is_suspect",
        "record",
        "run",
    )

    def __init__(self, host: Host, record: RunRecord, run: Run, bound: BoundWorkflow, inbox: Inbox) -> None:
        """Args: the worker, the claimed row, the folded journal, the code, and the messages."""
        self._host = host
        self.record = record
        self.run = run
        self.bound = bound
        self.is_suspect = record.recoveries >= SUSPECT_AT
        workflow = bound.workflow
        self._facts = RunFacts(record.id, record.incarnation, workflow.name, workflow.metadata)
        self._inbox = inbox
        self._reading: asyncio.Task[None] | None = None
        self._events: list[Event] = []
        self._heard: list[str] = []
        self._told = 0
        self._owes_all = True
        self._sent: Sent | None = None
        # Kept, because each look at a method makes another object.
        self._when_committed = self._committed
        self._branches = Branches(self, host, self._facts)
        self._hook = None if workflow.on_complete is None else Hook(host, record, bound)
        self._timers = Timers(host, self._fire)
        self._occupies = False
        self.is_dropped = False
        self._snapshots = Snapshots(host)

    @property
    def under_way(self) -> int:
        """How many bodies run, and whether a commit or a look at the inbox is under way: one more for each."""
        return self._branches.running + (self._sent is not None) + (self._reading is not None)

    @property
    def is_leaving(self) -> bool:
        """Whether the run may have been given back already: the commit that does so is under way."""
        return self._sent is not None and self._sent.append.worker is None

    def start(self) -> None:
        """Decide what messages mean, and carry out what is owed; a run with nothing to do is given back."""
        self._events += passed(self.run, self._host.now_ms())
        # A join may have been met in the very turn in which the run failed, before it was reopened.
        self._proceed(decides=bool(self.run.joining))

    def notice(self, messages_sent: int) -> None:
        """So many messages were sent to the run by now; what is not known of them is read."""
        self._told = max(self._told, messages_sent)
        if messages_sent > self._inbox.read and self._sent is None and not self.is_dropped:
            self._catch_up(messages_sent)

    def drop(self) -> None:
        """Cancel everything without a trace: the run is not ours any more, or will be given back."""
        self._timers.stop()
        self._branches.cancel()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._events.clear()
        self._sent = None
        self.is_dropped = True
        self._facts.is_stopped = True
        self.note_slot()

    # What the tasks of branches and their bodies need (`branches.Leader`).

    @property
    def is_settled(self) -> bool:
        """See `Driving`."""
        return self._sent is None and self._reading is None and not self._events

    @property
    def is_reading(self) -> bool:
        """See `Driving`."""
        return self._reading is not None

    def must_stop(self, branch: Branch) -> bool:
        """See `Driving`."""
        return self._host.is_draining or self.run.holds(branch) or self._host.has_lapsed()

    def operate(self, events: Events) -> None:
        """See `Driving`."""
        if self.is_dropped:
            return
        if self._sent is not None or self._reading is not None:
            self._events += events
            return
        workflow, run = self.bound.workflow, self.run
        if len(events) == 1 and type(event := events[0]) is AttemptSucceeded:
            entry = straight_on(workflow, run, event)
            if entry is not None:
                self._sent = sent = straight(self.record, run.position, entry, self._inbox.read)
                self._host.group.submit(sent.append, self._when_committed)
                return
        entries = decide(workflow, run, events)
        if self._hook is not None and entries and self._hook.is_wanted(entries):
            self._reading = self._host.spawn(self._ask_hook(self._hook, entries, events))
            return
        consumed = self._inbox.consumed(events, entries) if self._inbox.pending else ()
        if entries or consumed:
            self._send(entries, header_after(run, entries), events, consumed)
        else:
            self._settle(entries, events)

    def attempts_ended(self) -> None:
        """See `Leader`."""
        if self.is_settled:
            self._settle([], [])

    async def _ask_hook(self, hook: Hook, entries: Entries, events: Events) -> None:
        """Ask what is to follow the run; then decide again, with whatever has come meanwhile."""
        await hook.ask(self.run, entries)
        self._reading = None
        if not self.is_dropped:
            if isinstance(hook.found, Failure):
                # Nothing but control comes before it: what has not happened can happen again after a retry.
                self.operate([*only_control(self._offered()), CompletionRefused(hook.found)])
            else:
                self._events[:0] = without_mail(events)
                self._proceed()

    def _send(self, entries: Entries, header: Header, events: Events, consumed: tuple[int, ...] = ()) -> None:
        run, record, read = self.run, self.record, self._inbox.read
        leaves = header.status != "running" and self._leaves(entries, header)
        append = append_of(record, run.position, entries, header, leaves=leaves, read=read, consumed=consumed)
        bodies, hook = self._branches.bodies, self._hook
        if bodies is not None or hook is not None or run.children or record.parent_key is not None:
            new, found = bodies.children if bodies else {}, hook.found if hook else None
            append = completed(append, record, run, entries, new=new, follow_ups=found)
        self._sent = Sent(append, entries, events)
        self._host.group.submit(append, self._when_committed)

    def _committed(self, outcome: Outcome) -> None:
        sent, self._sent = self._sent, None
        if sent is None:
            return
        done, inbox = sent.straight, self._inbox
        if (
            done is not None
            and type(outcome) is Applied
            and not (outcome.messages_sent > inbox.read or self._told > inbox.read or inbox.pending)
            and not (self._events or self._owes_all or self.is_suspect or self._host.is_draining)
            and self._branches.bodies is None
        ):
            # Most commits by far: nothing else has come, and the branch has its next attempt to make.
            at = go_straight_on(self.run, done, outcome.at_ms)
            self._snapshots.take(self, sent.append.entries)
            self._branches.begin(StartAttempt(at.branch, at.step, at.visit, 1))
        else:
            self._answered(sent.in_full(), outcome)

    def _answered(self, sent: Sent, outcome: Outcome) -> None:
        if isinstance(outcome, Applied):
            self._applied(sent, outcome)
        elif isinstance(outcome, Unread):
            # What came from the inbox is still there, and is offered again beside what was not read.
            self._events[:0] = without_mail(sent.events)
            self._catch_up(outcome.messages_sent)
        elif isinstance(outcome, Refused) and (failed := all_refused(sent.events, outcome.error)):
            # Once; then the run is let go.
            self.operate(failed)
        else:
            self.drop()
            self._host.left(self, due_at_ms=None)

    def _applied(self, sent: Sent, outcome: Applied) -> None:
        append, entries, events = sent.append, sent.entries, sent.events
        for entry in entries:
            evolve(self.run, entry, outcome.at_ms)
        if (bodies := self._branches.bodies) is not None:
            bodies.note(entries, append)
        if append.children or append.messages:
            self._host.expect_mail()
        if append.consumed or append.returned:
            self._inbox.update(append.consumed, append.returned)
        if self.is_suspect and append.completes:
            # It is none any more, so that this worker may take another one.
            self.is_suspect = False
            self._host.nudge()
        if append.worker is None:
            self._leave(events)
            return
        self._snapshots.take(self, append.entries)
        read = self._inbox.read
        if outcome.messages_sent > read or self._told > read:
            self._heard += attempted(events)
            self._catch_up(max(outcome.messages_sent, self._told))
        else:
            self._settle(entries, events)

    def _catch_up(self, messages_sent: int) -> None:
        """Read what is new in the inbox; until then nothing is started or committed."""
        if self._reading is None:
            self._reading = self._host.spawn(self._read_inbox(messages_sent))

    async def _read_inbox(self, messages_sent: int) -> None:
        rows = await self._host.read_inbox(self.record.key, self._inbox.read)
        self._reading = None
        if self.is_dropped:
            return
        try:
            self._inbox.take(rows, sent=messages_sent)
        except FormatError as error:
            LOGGER.error("run %r is blocked: %s", self.record.id, error)  # noqa: TRY400 - the data's fault
            self._send((), Header("blocked"), ())
            return
        self._proceed()

    def _proceed(self, *, decides: bool = False) -> None:
        """Decide all events at hand, messages first, and then carry out whatever is owed."""
        self._owes_all = True
        events = self._offered()
        if events or decides:
            self.operate(events)
        else:
            self._settle([], [])

    def _offered(self) -> list[Event]:
        events, self._events = self._inbox.offer(self.run) + self._events, []
        return events

    def _settle(self, entries: Entries, events: Events) -> None:
        """Start what a commit has made possible, and answer the branches whose events were in it."""
        heard, bodies = attempted(events), self._branches.bodies
        if self._heard:
            heard += self._heard
            self._heard = []
        # What a body waits for may have come, while it was put away.
        if bodies is not None and any(type(event) is AttemptSuspended for event in events):
            self._owes_all = True
        effects = owed(self.run) if self._owes_all else owed_after(self.run, entries)
        self._owes_all = False
        for effect in effects:
            # A body that still runs, or whose outcome is not decided yet, is not started again.
            is_operation = isinstance(effect, ArmTimer) and effect.key
            if is_operation or effect.branch not in self._branches.live or effect.branch in heard:
                self._carry_out(effect)
        self._branches.end(heard)
        if bodies is not None:
            bodies.tell()
        offered = self._offered() if self._events or self._inbox.pending else None
        if offered:
            self.operate(offered)
        elif bodies is not None and bodies.wants_anew:
            self._reading = self._host.spawn(self._begin_anew(bodies))
        elif not self._branches.live:
            self._idle()
        elif bodies is not None:
            bodies.settled()

    async def _begin_anew(self, bodies: Bodies) -> None:
        """Let the run's next incarnation take its place; nothing is recorded for this one any more."""
        await bodies.begin_anew(self.bound)
        self._reading = None
        self.drop()
        self._host.left(self, due_at_ms=None)

    def _carry_out(self, effect: Effect) -> None:
        if self._host.is_draining:
            return
        if isinstance(effect, ArmTimer):
            self._timers.arm(effect)
        else:
            self._branches.begin(effect)

    def _fire(self, effect: ArmTimer) -> None:
        then = effect.then
        if self.is_leaving:
            # The run is being given back. Once that is known, this driver ends; if it failed, it goes on.
            self._timers.wait(effect, LINGER_MS)
        elif not isinstance(then, StartAttempt):
            self._events.append(then)
            if self._sent is None and self._reading is None:
                self._proceed()
        elif self._occupies:
            self.begin(then)
        else:
            self._host.begin_when_free(self, then)

    def begin(self, effect: StartAttempt) -> None:
        """Start an attempt that waited for its due time and a slot; nothing if it is not owed any more."""
        is_free = not (self._host.is_draining or self.is_dropped or effect.branch in self._branches.live)
        if is_free and may_begin(self.run, effect):
            self._branches.begin(effect)

    def _leaves(self, entries: Entries, header: Header) -> bool:
        """Whether the run is given back with these entries: it is over, blocked, or may be parked."""
        # A signal that is here may be what a branch waits for when it has come to where the entries lead it.
        may_wait = not (entries and self._inbox.pending)
        return header.status in _LEAVING or (may_wait and self._may_park(header))

    def _may_park(self, header: Header) -> bool:
        """Whether a suspended run should be given back: nothing runs, and nothing is due soon."""
        if not self._branches.are_reported or self._events or self._reading is not None:
            return False
        return header.wait_ms(self._host.now_ms()) > LINGER_MS

    def _idle(self) -> None:
        """Nothing runs: free the slot, and give the run back if nothing is due soon."""
        self.note_slot()
        if self._host.is_draining:
            self._host.occupy(0)
            return
        header = header_after(self.run, [])
        if header.status != "running" and self._may_park(header):
            self._send((), header, ())

    def note_slot(self) -> None:
        """See `Driving`."""
        if bool(self._branches.running) is not self._occupies:
            self._occupies = not self._occupies
            self._host.occupy(1 if self._occupies else -1)

    def _leave(self, events: Events) -> None:
        due_at_ms = None if self.run.is_over else self.run.due_at_ms
        self._branches.end([*self._heard, *attempted(events)])
        self.drop()
        self._host.left(self, due_at_ms=due_at_ms)
