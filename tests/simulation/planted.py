"""Bugs that somebody may make, to be planted into the engine or the store: the simulator must find each."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
import pytest

from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.run import Run
from holdfast.errors import StoreUnavailableError
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.claims import Claims
from holdfast.runtime.driver import Driver
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.leases import Identity, Lease
from holdfast.runtime.timers import Timers
from holdfast.runtime.worker import Worker
from holdfast.stores import memory
from holdfast.stores.group_commit import Done, GroupCommit
from holdfast.stores.memory import MemoryStore
from holdfast.stores.memory_rows import Row, record_of
from holdfast.stores.records import Append, Applied, Fenced, Member, Message, Outcome, RunRecord
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.network import Line
from holdfast.testing.simulator.world import Faults

T = TypeVar("T")
Plant = Callable[[pytest.MonkeyPatch], None]
GAP_S = 0.5
"""What others have time for, between the two halves of something that is torn apart."""


def fence_by_owner_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore._append

    def append(store: MemoryStore, member: Append, at_ms: int) -> Outcome:
        row = store._rows.get(member.key)
        if row is None or row.worker is None or member.worker not in {None, row.worker}:
            return Fenced()
        return real(store, msgspec.structs.replace(member, epoch=row.epoch), at_ms)

    monkeypatch.setattr(MemoryStore, "_append", append)


def check_then_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Database.commit

    async def commit(store: Database, group: Sequence[Member]) -> list[Outcome]:
        def is_fenced(member: Member) -> bool:
            row = store._rows.get(member.key) if isinstance(member, Append) else None
            return (
                row is not None
                and isinstance(member, Append)
                and (row.epoch, row.position)
                != (
                    member.epoch,
                    member.position,
                )
            )

        fenced = [is_fenced(member) for member in group]
        await asyncio.sleep(GAP_S)
        outcomes: list[Outcome] = []
        for member, is_late in zip(group, fenced, strict=True):
            anyway = member
            if isinstance(member, Append) and not is_late:
                row = store._rows[member.key]
                anyway = msgspec.structs.replace(member, epoch=row.epoch, position=row.position)
            outcomes += await real(store, [anyway])
        return outcomes

    monkeypatch.setattr(Database, "commit", commit)


def lease_by_worker_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Line._reach
    skews: dict[int, int] = {}

    async def reach(line: Line, call: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def asked() -> T:
            skews[0] = line._process.clock.skew_ms
            return await ask()

        return await real(line, call, asked)

    def expired(store: MemoryStore) -> list[str]:
        now_ms = store.now_ms() + skews.get(0, 0)
        return [worker for worker, expires_at_ms in store._workers.items() if expires_at_ms <= now_ms]

    monkeypatch.setattr(Line, "_reach", reach)
    monkeypatch.setattr(MemoryStore, "_expired", expired)


def no_self_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "has_lapsed", lambda _lease: False)
    monkeypatch.setattr(Lease, "left_ms", 10_000.0)


def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "beat", lambda lease, _now_ms: lease._times.heartbeat_ms)


def blind_append(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fenced under its own epoch is believed to be fenced by another."""

    async def believe(_group: GroupCommit, _member: Member, outcome: Outcome, _since_ms: int) -> Outcome:
        return outcome

    monkeypatch.setattr(GroupCommit, "_recall", believe)


def repeat_at_fresh_position(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GroupCommit._write_once
    failed: set[tuple[int, int]] = set()

    async def write_once(group: GroupCommit, members: Sequence[Member], life: int) -> list[Outcome]:
        fresh: list[Member] = []
        for member in members:
            if isinstance(member, Append) and (member.key, member.position) in failed:
                rows = await group._store.read_journal(member.key)
                fresh.append(msgspec.structs.replace(member, position=len(rows)))
            else:
                fresh.append(member)
        try:
            return await real(group, fresh, life)
        except StoreUnavailableError:
            failed.update((m.key, m.position) for m in members if isinstance(m, Append))
            raise

    monkeypatch.setattr(GroupCommit, "_write_once", write_once)


def unknown_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed is given up, and decided anew by whoever comes next."""
    real = GroupCommit._write_once

    async def write_once(group: GroupCommit, members: Sequence[Member], life: int) -> list[Outcome]:
        try:
            return await real(group, members, life)
        except StoreUnavailableError:
            return [Fenced() for _ in members]

    monkeypatch.setattr(GroupCommit, "_write_once", write_once)


def unknown_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GroupCommit._write_once

    async def write_once(group: GroupCommit, members: Sequence[Member], life: int) -> list[Outcome]:
        try:
            return await real(group, members, life)
        except StoreUnavailableError:
            return [Applied(group._store.now_ms(), m.key if isinstance(m, Append) else 1) for m in members]

    monkeypatch.setattr(GroupCommit, "_write_once", write_once)


def reap_in_one_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reap(store: Database) -> int:
        dead = store._expired()
        held = [row for row in store._rows.values() if row.worker in dead]
        await asyncio.sleep(GAP_S)
        for worker in dead:
            store._workers.pop(worker, None)
        store._free(held)
        store.look(True)
        return len(held)

    monkeypatch.setattr(Database, "reap", reap)


def message_frees_a_held_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore._send

    def send(store: MemoryStore, message: Message, at_ms: int) -> Outcome:
        outcome = real(store, message, at_ms)
        row = store._rows.get(message.run_key)
        if row is not None and row.status in message.wakes:
            row.worker, row.due_at_ms = None, at_ms
        return outcome

    monkeypatch.setattr(MemoryStore, "_send", send)


def recovery_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "charged", lambda recoveries, **_beside: recoveries)


def recovery_never_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryStore._append

    def append(store: MemoryStore, member: Append, at_ms: int) -> Outcome:
        return real(store, msgspec.structs.replace(member, completes=False), at_ms)

    monkeypatch.setattr(MemoryStore, "_append", append)


def epoch_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(_store: MemoryStore, row: Row, worker: str) -> RunRecord:
        row.worker = worker
        row.epoch = max(row.epoch, 1)
        row.status = "running" if row.status == "pending" else row.status
        return record_of(row)

    monkeypatch.setattr(MemoryStore, "_hold", hold)


def claim_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "_check_lease", lambda _store, _worker: None)


def same_name_after_a_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Identity.take

    async def take(identity: Identity) -> None:
        class Same:
            def run_id(self) -> str:
                raise AssertionError

            def worker_id(self) -> str:
                return identity.worker

        monkeypatch.setattr(identity, "_ids", Same())
        await real(identity)

    monkeypatch.setattr(Identity, "take", take)


def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def arm(timers: Timers, effect: ArmTimer) -> None:
        if isinstance(effect.then, StartAttempt):
            timers._host.call_later(10, lambda: timers._fire(effect))
        else:
            real(timers, effect)

    real = Timers.arm
    monkeypatch.setattr(Timers, "arm", arm)


def act_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = GroupCommit.submit

    def act_first(group: GroupCommit, member: Member, done: Done) -> None:
        real(group, member, done)
        if isinstance(member, Append) and member.is_held:
            done(Applied(group._store.now_ms(), member.key))

    monkeypatch.setattr(GroupCommit, "submit", act_first)


def forget_unknown_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(claims: Claims) -> None:
        claims.is_unsure = False

    monkeypatch.setattr(Claims, "_find_what_is_held", forget)


def adopt_whatever_was_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under a name that has lapsed meanwhile, and not if an older epoch of the run is still driven."""

    def adopt(worker: Worker, record: RunRecord, run: Run, bound: BoundWorkflow, inbox: Inbox) -> None:
        if record.id not in worker._drivers:
            driver = Driver(worker, record, run, bound, inbox)
            worker._drivers[record.id] = driver
            driver.start()

    monkeypatch.setattr(Worker, "adopt", adopt)


def retry_while_giving_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that becomes due while the commit that gives the run back is under way."""

    real = Driver._fire

    def fire(driver: Driver, effect: ArmTimer) -> None:
        then = effect.then
        if not isinstance(then, StartAttempt):
            real(driver, effect)
        elif driver._occupies:
            driver.begin(then)
        else:
            driver._host.begin_when_free(driver, then)

    monkeypatch.setattr(Driver, "_fire", fire)


PLANTS: list[Plant] = [
    fence_by_owner_name,
    check_then_write,
    lease_by_worker_clock,
    no_self_stop,
    no_heartbeat,
    blind_append,
    repeat_at_fresh_position,
    unknown_is_not_applied,
    unknown_is_applied,
    reap_in_one_statement,
    message_frees_a_held_run,
    recovery_not_counted,
    recovery_never_forgiven,
    epoch_of_the_one_before,
    claim_without_a_lease,
    same_name_after_a_lapse,
    retry_at_once,
    act_before_the_commit,
    forget_unknown_claims,
    adopt_whatever_was_claimed,
    retry_while_giving_back,
]

FOCUS: dict[Plant, Faults] = {
    fence_by_owner_name: Faults(kinds=("delay_request", "freeze"), rate=0.3, chaos_s=3, until_s=100),
    claim_without_a_lease: Faults(kinds=("delay_request", "kill"), rate=0.3, chaos_s=4, until_s=120),
    retry_while_giving_back: Faults(kinds=("delay_answer",), rate=0.3, until_s=60),
    adopt_whatever_was_claimed: Faults(kinds=("delay_answer", "freeze"), rate=0.2, chaos_s=5, until_s=100),
}
"""Faults for bugs that a mixture of all of them seldom shows."""
