"""The machine is worth something: each of these bugs, planted into the engine, is found by it."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from holdfast.core import evolve as evolving
from holdfast.core.effects import Effect, StartAttempt
from holdfast.core.entries import Entry, Paused, StepCompleted, Unpaused
from holdfast.core.run import Run
from holdfast.runtime import driver as driving
from holdfast.runtime.timers import Timers
from holdfast.stores import group_commit
from holdfast.stores.group_commit import Done, GroupCommit
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import ENDED, Append, Member, NewRun, Outcome
from holdfast.testing.watched import WatchedStore
from tests.machine.machine import FAILING, Machine

Plant = Callable[[pytest.MonkeyPatch], None]
Seqs = tuple[int, ...]
AHEAD_MS = 700
EXAMPLES = 1_500
CALM = (0, 0, 0, 1)


def consume_before_commit(patch: pytest.MonkeyPatch) -> None:
    """A signal is taken out of the inbox before the transaction that says who received it."""
    right = GroupCommit.submit

    def submit(group: GroupCommit, member: Member, done: Done) -> None:
        watched = group._store
        assert isinstance(watched, WatchedStore)
        row = watched._inner._rows.get(member.key) if isinstance(member, Append) and member.is_held else None
        if row is not None:
            row.inbox = [message for message in row.inbox if message.seq not in member.consumed]
        right(group, member, done)

    patch.setattr(GroupCommit, "submit", submit)


def in_append(change: Callable[[Append], Append]) -> Plant:
    """The memory store takes an append for another one."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = MemoryStore._append

        def append(store: MemoryStore, given: Append, at_ms: int) -> Outcome:
            return right(store, change(given), at_ms)

        patch.setattr(MemoryStore, "_append", append)

    return plant


def park_without_a_look(append: Append) -> Append:
    """A run is given back although a message came that was not read."""
    is_parking = append.is_held and append.worker is None and append.status not in ENDED
    return msgspec.structs.replace(append, messages_read=None) if is_parking else append


def keep_what_was_consumed(append: Append) -> Append:
    """What a driver has consumed is forgotten by it, and still there for the next one."""
    return msgspec.structs.replace(append, consumed=())


def timers_by_a_clock_that_is_ahead(patch: pytest.MonkeyPatch) -> None:
    """A worker decides by a clock of its own what is due."""

    def look(timers: Timers, effect: driving.ArmTimer) -> None:
        del timers._timers[effect.branch, effect.key]
        timers._fire(effect)

    def arm(timers: Timers, effect: driving.ArmTimer) -> None:
        timers.wait(effect, max(effect.due_at_ms - timers._host.now_ms() - AHEAD_MS, 0))

    patch.setattr(Timers, "_look", look)
    patch.setattr(Timers, "arm", arm)


def completion_over_cancel(patch: pytest.MonkeyPatch) -> None:
    """A run ends although a cancel was acknowledged that it has not read."""
    patch.setattr(Append, "must_be_read", lambda _: False)


def pause_ignored_for_the_next_step(patch: pytest.MonkeyPatch) -> None:
    """A branch goes straight on to its next step, paused or not."""
    right = driving.owed_after

    def owed_after(run: Run, entries: list[Entry]) -> list[Effect]:
        if len(entries) == 1 and isinstance(entries[0], StepCompleted) and len(entries[0].arrivals) == 1:
            at = entries[0].arrivals[0]
            if at.kind == "task":
                return [StartAttempt(at.branch, at.step, at.visit, 1)]
        return right(run, entries)

    patch.setattr(driving, "owed_after", owed_after)


def unpause_without_a_new_base(patch: pytest.MonkeyPatch) -> None:
    """After a pause clocks run out when they would have run out without it."""
    right, dues = evolving._pause_changed, dict[tuple[str, str], int]()

    def pause_changed(run: Run, entry: Paused | Unpaused, at_ms: int) -> None:
        for branch in run.branches.values():
            if branch.due_at_ms is not None:
                dues[run.id, branch.id] = branch.due_at_ms
        right(run, entry, at_ms)
        for branch in run.branches.values():
            if branch.id in run.timers and branch.due_at_ms is not None:
                branch.due_at_ms = run.timers[branch.id] = dues.get((run.id, branch.id), branch.due_at_ms)

    patch.setattr(evolving, "_pause_changed", pause_changed)


def retry_keeps_the_old_budget(patch: pytest.MonkeyPatch) -> None:
    """A step that is tried again by people has no retries of its own any more."""
    right = evolving._run_reopened

    def run_reopened(run: Run, at_ms: int) -> None:
        budgets = {branch.id: branch.budgets for branch in run.branches.values()}
        right(run, at_ms)
        for branch in run.branches.values():
            branch.budgets = budgets[branch.id]

    patch.setattr(evolving, "_run_reopened", run_reopened)


def restart_keeps_the_old_inbox(patch: pytest.MonkeyPatch) -> None:
    """A run that takes the place of another one gets the signals that were sent to that one."""
    right = MemoryStore.replace

    async def replace(
        store: MemoryStore, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False
    ) -> Outcome:
        old = store._rows.get(key)
        outcome = await right(store, new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        row = store._rows.get(key)
        if old is not None and row is not None:
            row.inbox, row.messages_sent, row.message_ids = old.inbox, old.messages_sent, old.message_ids
        return outcome

    patch.setattr(MemoryStore, "replace", replace)


# Each with the workflow in which to look for it, what fails there, and a seed that finds it soon.
PLANTS: dict[str, tuple[Plant, str, tuple[int, ...], int]] = {
    "consume before commit": (consume_before_commit, "notes", CALM, 3),
    "park without a look at the counter": (in_append(park_without_a_look), "notes", CALM, 2),
    "a clock that is ahead": (timers_by_a_clock_that_is_ahead, "sleepy", CALM, 2),
    "completion over cancel": (completion_over_cancel, "approval", CALM, 2),
    "consumed twice after a crash": (in_append(keep_what_was_consumed), "notes", CALM, 2),
    "pause ignored for the next step": (pause_ignored_for_the_next_step, "line", CALM, 3),
    "unpause without a new base": (unpause_without_a_new_base, "sleepy", CALM, 2),
    "retry keeps the old budget": (retry_keeps_the_old_budget, "line", (5,), 3),
    "restart keeps the old inbox": (restart_keeps_the_old_inbox, "held", CALM, 2),
}


def search(flow: str, examples: int, failing: tuple[int, ...] = FAILING, number: int = 1) -> None:
    """With one run of one workflow: less is in the way."""
    small = type("SmallMachine", (Machine,), {"ids": ("run-1",), "flows": (flow,), "failing": failing})
    run_state_machine_as_test(
        seed(number)(small),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[*HealthCheck],
        ),
    )


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "REPEAT_FIRST_S", 0)


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    plant, flow, failing, number = PLANTS[bug]
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"is as in none of|was completed, and ran again"):
        search(flow, EXAMPLES, failing, number)


@pytest.mark.slow
@pytest.mark.parametrize("flow", sorted({flow for _, flow, *_ in PLANTS.values()}))
def test_without_a_bug_nothing_is_found(flow: str) -> None:
    """Else the tests above would prove nothing."""
    search(flow, 15)
