"""The memory store: the protocol without a disk. For `run()`, for tests, and as the simulator's model."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from holdfast.errors import LeaseLostError
from holdfast.ports import Clock
from holdfast.stores.base import Renewals
from holdfast.stores.memory_rows import Row, record_of
from holdfast.stores.records import (
    PRIORITY_STEP_MS,
    QUARANTINE_AT,
    SUSPECT_AT,
    Append,
    Applied,
    Claimed,
    Definition,
    Exists,
    Fenced,
    InboxRow,
    JournalRow,
    LeaseTimes,
    Member,
    Message,
    NewRun,
    Outcome,
    RunRecord,
    Snapshot,
    charged,
    due_at,
)

POLL_MS = (50, 5_000)


class _MemoryRenewals:
    """`Renewals` that need no connection."""

    def __init__(self, renew: Callable[[str], bool]) -> None:
        self._renew = renew

    def renew(self, worker: str) -> bool:
        return self._renew(worker)

    def close(self) -> None:
        pass


class MemoryStore:
    """Keeps runs in dictionaries; everything is lost with the object."""

    def __init__(self, clock: Clock, *, lease: LeaseTimes | None = None) -> None:
        """Args: where its time comes from, and the leases of its workers, where several share it."""
        self._clock = clock
        self._lease = lease
        self._workers: dict[str, int] = {}
        self._base_ms = clock.wall_ms() - clock.monotonic_ms()
        self._rows: dict[int, Row] = {}
        self._keys: dict[str, int] = {}
        self._definitions: dict[tuple[str, str], Definition] = {}
        self._current: dict[str, str] = {}

    @property
    def url(self) -> str:
        """See `Store`."""
        return "memory://"

    @property
    def is_durable(self) -> bool:
        """See `Store`."""
        return False

    @property
    def is_instant(self) -> bool:
        """See `Store`."""
        return True

    @property
    def may_drive(self) -> bool:
        """See `Store`."""
        return True

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`."""
        return None if self._lease is None else POLL_MS

    @property
    def lease(self) -> LeaseTimes | None:
        """See `Store`."""
        return self._lease

    def on_hint(self, hint: Callable[[], None]) -> None:
        """See `Store`. There are none: who does not look, does not know."""

    def now_ms(self) -> int:
        """See `Store`."""
        return int(self._base_ms + self._clock.monotonic_ms())

    async def open(self) -> None:
        """See `Store`. Without leases, frees every held run: the engine that opened it before has died."""
        if self._lease is None:
            self._free([row for row in self._rows.values() if row.worker is not None])

    async def close(self) -> None:
        """See `Store`."""

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        """See `Store`."""
        at_ms = self.now_ms()
        return [
            self._append(member, at_ms) if type(member) is Append else self._other(member, at_ms)
            for member in group
        ]

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        return self.commit_now(group) or []

    def _other(self, member: Member, at_ms: int) -> Outcome:
        if isinstance(member, NewRun):
            return self._insert(member, at_ms)
        if isinstance(member, Message):
            return self._send(member, at_ms)
        return self._append(member, at_ms)

    def _append(self, append: Append, at_ms: int) -> Outcome:
        row = self._rows.get(append.key)
        if row is None or row.epoch != append.epoch or row.position != append.position or row.worker is None:
            return Fenced()
        for entry in append.entries:
            row.journal.append((append.epoch, at_ms, entry))
        row.position += len(append.entries)
        row.status = append.status
        row.updated_at_ms = at_ms
        if append.completes:
            row.recoveries = 0
        if append.worker is None:
            row.worker = None
            read = append.messages_read
            unread = read is not None and row.messages_sent > read
            row.due_at_ms = at_ms if unread else due_at(append, at_ms)
        if append.consumed or append.children or append.messages:
            self._spawn(row, append, at_ms)
        return Applied(at_ms, append.key, row.messages_sent)

    def _spawn(self, row: Row, append: Append, at_ms: int) -> None:
        row.inbox = [message for message in row.inbox if message.seq not in append.consumed]
        for child in append.children:
            self._insert(child, at_ms)
        for message in append.messages:
            self._send(message, at_ms)

    def _insert(self, new: NewRun, at_ms: int) -> Outcome:
        if new.id in self._keys:
            return Exists()
        is_held = new.worker is None or self._is_alive(new.worker, at_ms)
        if not is_held:
            new = msgspec.structs.replace(new, worker=None)
        key = len(self._rows) + 1
        self._keys[new.id] = key
        self._rows[key] = Row(key, new, at_ms)
        return Applied(at_ms, key, is_held=is_held)

    def _send(self, message: Message, at_ms: int) -> Outcome:
        row = self._rows.get(message.run_key)
        if row is None or message.incarnation not in {None, row.incarnation}:
            return Fenced()
        if message.id not in row.message_ids:
            row.message_ids.add(message.id)
            row.messages_sent += 1
            row.inbox.append(
                InboxRow(
                    row.messages_sent,
                    message.kind,
                    message.name,
                    message.id,
                    message.payload,
                    at_ms,
                )
            )
            if row.worker is None and row.status in message.wakes:
                row.due_at_ms = at_ms
        return Applied(at_ms, row.key, row.messages_sent)

    async def register(self, worker: str) -> None:
        """See `Store`."""
        if self._lease is not None:
            self._workers.setdefault(worker, self.now_ms() + self._lease.lease_ms)

    def renewals(self) -> Renewals:
        """See `Store`."""
        return _MemoryRenewals(self._renew)

    def _renew(self, worker: str) -> bool:
        now_ms = self.now_ms()
        if self._lease is None or not self._is_alive(worker, now_ms):
            return False
        self._workers[worker] = now_ms + self._lease.lease_ms
        return True

    def _is_alive(self, worker: str, now_ms: int) -> bool:
        return self._lease is None or self._workers.get(worker, 0) > now_ms

    def _check_lease(self, worker: str) -> None:
        if not self._is_alive(worker, self.now_ms()):
            raise LeaseLostError(worker=worker)

    async def reap(self) -> int:
        """See `Store`."""
        freed = 0
        for worker in self._expired():
            del self._workers[worker]
            held = [row for row in self._rows.values() if row.worker == worker]
            self._free(held)
            freed += len(held)
        return freed

    def _expired(self) -> list[str]:
        now_ms = self.now_ms()
        return [worker for worker, expires_at_ms in self._workers.items() if expires_at_ms <= now_ms]

    def _free(self, held: Sequence[Row]) -> None:
        """Take runs from one dead worker."""
        now_ms = self.now_ms()
        beside_suspect = any(row.recoveries >= SUSPECT_AT for row in held)
        for row in held:
            row.worker, row.due_at_ms = None, now_ms
            row.recoveries = charged(row.recoveries, beside_suspect=beside_suspect)
            if row.recoveries >= QUARANTINE_AT:
                row.status, row.due_at_ms = "blocked", None

    async def claim(
        self,
        worker: str,
        *,
        workflows: Sequence[str],
        limit: int,
        suspects: int = 1,
        excluded: Sequence[str] = (),
    ) -> Claimed:
        """See `Store`."""
        self._check_lease(worker)
        now_ms = self.now_ms()
        waiting = [
            row
            for row in self._unheld()
            if row.due_at_ms is not None
            and row.new.workflow in workflows
            and row.new.fingerprint not in excluded
        ]
        due = [row for row in waiting if row.due_at_ms is not None and row.due_at_ms <= now_ms]
        due.sort(key=lambda row: (row.due_at_ms or 0) + PRIORITY_STEP_MS * (row.new.priority - 1))
        wary = [row for row in due if row.recoveries >= SUSPECT_AT][suspects:]
        chosen = [row for row in due if row not in wary][:limit]
        later = (row.due_at_ms for row in waiting if row.due_at_ms is not None and row.due_at_ms > now_ms)
        return Claimed(
            [self._hold(row, worker) for row in chosen], min(later, default=None), len(self._expired())
        )

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        self._check_lease(worker)
        row = self._find(run_id)
        if row is None or row.worker is not None or row.status in {"completed", "failed", "cancelled"}:
            return None
        return self._hold(row, worker)

    async def held(self, worker: str) -> list[RunRecord]:
        """See `Store`."""
        return [record_of(row) for row in self._rows.values() if row.worker == worker]

    def _unheld(self) -> Iterable[Row]:
        return (row for row in self._rows.values() if row.worker is None)

    def _hold(self, row: Row, worker: str) -> RunRecord:
        row.worker = worker
        row.epoch += 1
        if row.status == "pending":
            row.status = "running"
        return record_of(row)

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`."""
        for key, epoch in held:
            row = self._rows.get(key)
            if row is not None and row.epoch == epoch and row.worker is not None:
                row.worker, row.due_at_ms = None, self.now_ms()

    async def retire(self, worker: str) -> None:
        """See `Store`."""
        self._workers.pop(worker, None)
        for row in self._rows.values():
            if row.worker == worker:
                row.worker, row.due_at_ms = None, self.now_ms()

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """See `Store`."""
        rows = self._rows[key].journal[after:] if key in self._rows else []
        return [JournalRow(after + n, *row) for n, row in enumerate(rows, start=1)]

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """See `Store`."""
        row = self._rows.get(key)
        return [] if row is None else [each for each in row.inbox if each.seq > after]

    async def find_run(self, run_id: str) -> RunRecord | None:
        """See `Store`."""
        row = self._find(run_id)
        return None if row is None else record_of(row)

    def _find(self, run_id: str) -> Row | None:
        return self._rows.get(self._keys.get(run_id, 0))

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """See `Store`."""
        wanted: Callable[[Row], bool] = lambda row: (  # noqa: E731 - read beside its one use
            status in {None, row.status}
            and workflow in {None, row.new.workflow}
            and (after is None or row.key < after)
        )
        return [record_of(row) for row in reversed(self._rows.values()) if wanted(row)][:limit]

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """See `Store`."""
        self._definitions[definition.name, definition.fingerprint] = definition
        if current:
            self._current[definition.name] = definition.fingerprint

    async def find_definition(self, name: str, fingerprint: str | None = None) -> Definition | None:
        """See `Store`."""
        return self._definitions.get((name, fingerprint or self._current.get(name, "")))

    async def definition_names(self) -> list[str]:
        """See `Store`."""
        return sorted(self._current)

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        """See `Store`."""
        row = self._rows.get(key)
        if row is not None and row.epoch == epoch:
            row.snapshot = snapshot

    async def find_snapshot(self, key: int) -> Snapshot | None:
        """See `Store`."""
        row = self._rows.get(key)
        return None if row is None else row.snapshot
