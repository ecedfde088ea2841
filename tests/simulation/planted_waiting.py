"""Bugs that somebody may make in signals, timers, pauses and cancelling; as in `planted`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest

from holdfast.core import evolve, waits
from holdfast.core.entries import Paused, RunCancelled, Unpaused
from holdfast.core.events import TimerFired
from holdfast.core.run import Branch, Run
from holdfast.core.turn import Turn
from holdfast.runtime.claims import Claims
from holdfast.runtime.controls import Controls
from holdfast.runtime.driver import Driver
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.worker import Worker
from holdfast.stores import memory
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.memory import MemoryStore
from holdfast.stores.memory_tables import MemoryTables
from holdfast.stores.records import (
    ENDED,
    Append,
    Applied,
    InboxRow,
    Member,
    Message,
    NewRun,
    Outcome,
)
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.world import Faults

Plant = Callable[[pytest.MonkeyPatch], None]
GAP_S = 0.5
"""What others have time for, between the two halves of something that is torn apart."""


def _appending(monkeypatch: pytest.MonkeyPatch, change: Callable[[MemoryStore, Append], Append]) -> None:
    """Make the store take each append for another one."""
    real = MemoryStore._append

    def append(store: MemoryStore, member: Append, at_ms: int) -> Outcome:
        return real(store, change(store, member), at_ms)

    monkeypatch.setattr(MemoryStore, "_append", append)


# Signals.


def consume_then_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry uses up is taken out of the inbox first, and the entry is written later."""
    real = Database.commit

    async def commit(store: Database, group: Sequence[Member]) -> list[Outcome]:
        for member in group:
            row = store._rows.get(member.key) if isinstance(member, Append) else None
            if row is not None and isinstance(member, Append) and member.consumed:
                row.inbox = [message for message in row.inbox if message.seq not in member.consumed]
                await asyncio.sleep(GAP_S)
        return await real(store, group)

    monkeypatch.setattr(Database, "commit", commit)


def save_and_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is written, and the message stays."""
    _appending(monkeypatch, lambda _store, append: msgspec.structs.replace(append, consumed=()))


def look_then_park(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is given back by what its inbox held when it was read, without comparing the counter."""

    def change(_store: MemoryStore, append: Append) -> Append:
        parks = append.worker is None and append.status not in ENDED and append.is_held
        return msgspec.structs.replace(append, messages_read=None) if parks else append

    _appending(monkeypatch, change)


def last_in_first_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Inbox.offer

    def offer(inbox: Inbox, run: Run) -> list[Any]:
        for rows in inbox._signals.values():
            rows.sort(key=lambda row: -row.seq)
        return real(inbox, run)

    monkeypatch.setattr(Inbox, "offer", offer)


def ids_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is known again only while it is pending."""
    real = MemoryStore._send

    def send(store: MemoryStore, message: Message, at_ms: int) -> Outcome:
        row = store._rows.get(message.run_key)
        if row is not None:
            row.message_ids = {each.id for each in row.inbox}
        return real(store, message, at_ms)

    monkeypatch.setattr(MemoryStore, "_send", send)


def swallowed_when_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore._send

    def send(store: MemoryStore, message: Message, at_ms: int) -> Outcome:
        row = store._rows.get(message.run_key)
        if row is not None and row.status in ENDED:
            return Applied(at_ms, row.key, row.messages_sent)
        return real(store, message, at_ms)

    monkeypatch.setattr(MemoryStore, "_send", send)


def acknowledged_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GroupCommit.commit

    async def commit(group: GroupCommit, member: Member) -> Outcome:
        if isinstance(member, Message):
            group.submit(member, lambda _outcome: None)
            return Applied(group._store.now_ms(), member.run_key, 1)
        return await real(group, member)

    monkeypatch.setattr(GroupCommit, "commit", commit)


def hint_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds a run hears of messages from its own process only."""

    async def deaf(_claims: Claims) -> None:
        pass

    monkeypatch.setattr(Claims, "_hear", deaf)


def message_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore._send

    def send(store: MemoryStore, message: Message, at_ms: int) -> Outcome:
        return real(store, msgspec.structs.replace(message, wakes=("pending", "running")), at_ms)

    monkeypatch.setattr(MemoryStore, "_send", send)


def timed_out_beside_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out that is decided together with the signal counts, too."""
    real = waits.timer_fired

    def timer_fired(turn: Turn, event: TimerFired) -> None:
        turn.moved = ()
        real(turn, event)

    monkeypatch.setattr(waits, "timer_fired", timer_fired)


# Timers.


def timer_by_worker_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "now_ms", lambda worker: worker._clock.wall_ms())


def due_time_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    _appending(monkeypatch, lambda _store, append: msgspec.structs.replace(append, due_in_ms=None))


def due_in_counted_by_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due counted from the commit is due counted from the clock's beginning."""
    monkeypatch.setattr(memory, "due_at", lambda append, _at_ms: append.due_at_ms or append.due_in_ms)


def clocks_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve, "stop_clock", lambda _branch, _at_ms: None)


def frozen_and_not_rebased(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left counts from the arrival again, not from the end of the pause."""

    def start(branch: Branch, _at_ms: int) -> None:
        if branch.left_ms is not None:
            branch.due_at_ms, branch.left_ms = branch.since_ms + branch.left_ms, None

    monkeypatch.setattr(evolve, "start_clock", start)


def deadline_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    def pause_run(run: Run, pause: Paused | None, at_ms: int) -> None:
        run.pause, run.paused_at_ms = pause, at_ms

    monkeypatch.setattr(evolve, "_pause_run", pause_run)


def retry_with_the_old_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that timed out is over again as soon as its run is opened again."""
    real = evolve._run_reopened

    def reopened(run: Run, at_ms: int) -> None:
        left = {branch.id: branch.left_ms for branch in run.branches.values()}
        real(run, at_ms)
        for branch in run.branches.values():
            before = left[branch.id]
            if branch.status == "waiting" and before is not None and branch.due_at_ms is not None:
                branch.due_at_ms = run.timers[branch.id] = at_ms + before

    monkeypatch.setattr(evolve, "_run_reopened", reopened)


# Pause and cancel.


def unread_when_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a commit has made possible is started, whatever was sent meanwhile."""
    real: Callable[..., None] = Driver._applied

    def applied(driver: Driver, *args: Any) -> None:  # noqa: ANN401 - whatever it is called with
        driver._told = 0
        deaf = [
            msgspec.structs.replace(arg, messages_sent=0) if isinstance(arg, Applied) else arg for arg in args
        ]
        real(driver, *deaf)

    monkeypatch.setattr(Driver, "_applied", applied)


def end_over_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(_store: MemoryStore, append: Append) -> Append:
        return msgspec.structs.replace(append, messages_read=None) if append.status in ENDED else append

    _appending(monkeypatch, change)


def pause_step_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.core.edges._pause", lambda _turn, _branch, _pause: None)


def new_branches_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evolve._arrive

    def arrive(run: Run, source: Branch, arrivals: Iterable[Any], at_ms: int) -> None:
        pause, source.pause = source.pause, None
        real(run, source, tuple(arrivals), at_ms)
        source.pause = pause

    monkeypatch.setattr(evolve, "_arrive", arrive)


def control_without_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of a run that nobody holds is written wherever its journal has got to meanwhile."""

    def change(store: MemoryStore, append: Append) -> Append:
        row = store._rows.get(append.key)
        if append.is_held or row is None:
            return append
        return msgspec.structs.replace(append, epoch=row.epoch, position=row.position)

    _appending(monkeypatch, change)


def control_of_a_held_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """... or though somebody holds it by now."""

    def change(store: MemoryStore, append: Append) -> Append:
        row = store._rows.get(append.key)
        if append.is_held or row is None:
            return append
        is_held = row.worker is not None
        return msgspec.structs.replace(append, epoch=row.epoch, position=row.position, is_held=is_held)

    _appending(monkeypatch, change)


def control_hides_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of a run that nobody holds counts its signals as read."""

    def change(store: MemoryStore, append: Append) -> Append:
        row = store._rows.get(append.key)
        if append.is_held or row is None:
            return append
        return msgspec.structs.replace(append, messages_read=row.messages_sent)

    _appending(monkeypatch, change)


def control_of_held_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is believed that somebody holds every run that is not over."""
    real = Controls.control

    async def control(controls: Controls, run_id: str, wanted: Paused | Unpaused | RunCancelled) -> None:
        record = await controls._find(run_id)
        if record.worker is not None or record.status in ENDED:
            await real(controls, run_id, wanted)

    monkeypatch.setattr(Controls, "control", control)


# Restart, retry and delete.


def restart_keeps_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore.replace

    async def replace(
        store: MemoryStore, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False
    ) -> Outcome:
        inbox: list[InboxRow] = store._rows[key].inbox if key in store._rows else []
        outcome = await real(store, new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        if isinstance(outcome, Applied):
            store._rows[key].inbox = inbox
            store._rows[key].messages_sent = len(inbox)
        return outcome

    monkeypatch.setattr(MemoryStore, "replace", replace)


def restart_under_the_same_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore.replace

    async def replace(
        store: MemoryStore, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False
    ) -> Outcome:
        outcome = await real(store, new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        if isinstance(outcome, Applied):
            store._rows[key].epoch = epoch
        return outcome

    monkeypatch.setattr(MemoryStore, "replace", replace)


def message_to_the_next_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause or a cancel that was meant for the run before reaches the one in its place."""
    real = MemoryStore._send

    def send(store: MemoryStore, message: Message, at_ms: int) -> Outcome:
        return real(store, msgspec.structs.replace(message, incarnation=None), at_ms)

    monkeypatch.setattr(MemoryStore, "_send", send)


def sweep_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes what has not changed for long, over or not."""

    async def sweep(store: MemoryTables, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        rows = [row for row in store._unheld() if row.new.workflow == workflow and status]
        old = [row for row in rows if row.updated_at_ms < before_ms][:limit]
        for row in old:
            store._remove(row)
        return len(old)

    monkeypatch.setattr(MemoryTables, "sweep", sweep)


PLANTS: list[Plant] = [
    consume_then_save,
    save_and_keep,
    look_then_park,
    last_in_first_out,
    ids_not_kept,
    swallowed_when_over,
    acknowledged_before_the_commit,
    hint_without_poll,
    message_wakes_nobody,
    timed_out_beside_a_signal,
    timer_by_worker_clock,
    due_time_not_stored,
    due_in_counted_by_the_worker,
    clocks_not_frozen,
    frozen_and_not_rebased,
    deadline_not_frozen,
    retry_with_the_old_clocks,
    unread_when_starting,
    end_over_cancel,
    pause_step_passed_by,
    new_branches_not_paused,
    control_without_position,
    control_of_a_held_run,
    control_hides_signals,
    control_of_held_runs_only,
    restart_keeps_the_inbox,
    restart_under_the_same_epoch,
    message_to_the_next_incarnation,
    sweep_whatever_it_is,
]

FOCUS: dict[Plant, Faults] = {
    look_then_park: Faults(kinds=("delay_request",), rate=0.4, until_s=60),
    timed_out_beside_a_signal: Faults(kinds=("delay_answer", "delay_request"), rate=0.2, until_s=60),
    unread_when_starting: Faults(kinds=("hint_lost",), rate=0.9, until_s=60),
    hint_without_poll: Faults(kinds=("hint_lost",), rate=0.9, until_s=60),
    swallowed_when_over: Faults(kinds=("delay_request",), rate=0.4, until_s=60),
    message_to_the_next_incarnation: Faults(kinds=("delay_request",), rate=0.4, until_s=60),
}
"""Faults for bugs that a mixture of all of them seldom shows."""
