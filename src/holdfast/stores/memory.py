"""The memory store: the protocol without a disk. For `run()`, for tests, and as the simulator's model."""

from collections.abc import Callable, Sequence

import msgspec

from holdfast.errors import LeaseLostError
from holdfast.ports import Clock
from holdfast.stores.base import Renewals
from holdfast.stores.memory_rows import Row, record_of
from holdfast.stores.memory_tables import MemoryTables
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    ENDED,
    PRIORITY_STEP_MS,
    QUARANTINE_AT,
    SUSPECT_AT,
    Append,
    Applied,
    Claimed,
    Exists,
    Fenced,
    InboxRow,
    JournalRow,
    LeaseTimes,
    Member,
    Message,
    NewRun,
    Outcome,
    Over,
    RunRecord,
    Unread,
    WorkerRecord,
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


class MemoryStore(MemoryTables):
    """Keeps runs in dictionaries; everything is lost with the object."""

    def __init__(self, clock: Clock, *, lease: LeaseTimes | None = None) -> None:
        """Args: where its time comes from, and the leases of its workers, where several share it."""
        super().__init__()
        self._clock = clock
        self._lease = lease
        self._workers: dict[str, int] = {}
        self._workflows: dict[str, tuple[str, ...]] = {}
        self._base_ms = clock.wall_ms() - clock.monotonic_ms()

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
            self._workflows.clear()
            self._free([row for row in self._rows.values() if row.worker is not None])

    async def close(self) -> None:
        """See `Store`."""

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        """See `Store`."""
        at_ms = self.now_ms()
        # No comprehension: it would be one more call for groups of one, which most are.
        outcomes: list[Outcome] = []
        for member in group:
            if type(member) is Append:
                outcomes.append(self._append(member, at_ms))
            else:
                outcomes.append(self._other(member, at_ms))
        return outcomes

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
        row, epoch, position = self._rows.get(append.key), append.epoch, append.position
        if row is None or row.epoch != epoch or row.position != position:
            return Fenced()
        if append.is_held is (row.worker is None):
            return Fenced()
        sent, read = row.messages_sent, append.messages_read
        is_unread = read is not None and sent > read
        if is_unread and append.must_be_read():
            return Unread(sent)
        for entry in append.entries:
            position += 1
            row.journal.append(JournalRow(position, epoch, at_ms, entry))
        row.position = position
        row.status = append.status
        row.updated_at_ms = at_ms
        if append.completes:
            row.recoveries = 0
        if append.worker is None:
            row.worker = None
            row.due_at_ms = at_ms if is_unread else due_at(append, at_ms)
        if append.consumed or append.returned or append.children or append.messages:
            self._spawn(row, append, at_ms)
        return Applied(at_ms, row.key, sent)

    def _spawn(self, row: Row, append: Append, at_ms: int) -> None:
        row.inbox = [message for message in row.inbox if message.seq not in append.consumed]
        if append.returned:
            # Where the append is repeated they are there, and stay as they are.
            messages = {message.seq: message for message in (*append.returned, *row.inbox)}
            row.inbox = [messages[seq] for seq in sorted(messages)]
        for child in append.children:
            self._insert(child, at_ms)
        for message in append.messages:
            self._send(message, at_ms)

    def _insert(self, new: NewRun, at_ms: int) -> Outcome:
        if new.id in self._keys:
            return Exists()
        alive = self._with_live_worker(new, at_ms)
        key = self._new_key()
        self._keys[new.id] = key
        self._rows[key] = Row(key, alive, at_ms)
        return Applied(at_ms, key, is_held=alive is new)

    def _with_live_worker(self, new: NewRun, at_ms: int) -> NewRun:
        """The new run, for nobody where the worker that it names is dead."""
        is_held = new.worker is None or self._is_alive(new.worker, at_ms)
        return new if is_held else msgspec.structs.replace(new, worker=None)

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`."""
        old, at_ms = self._rows.get(key), self.now_ms()
        if old is None or old.epoch != epoch:
            return Fenced()
        alive = self._with_live_worker(new, at_ms)
        row = Row(key, msgspec.structs.replace(alive, id=old.new.id), at_ms)
        row.epoch, row.incarnation = epoch + 1, old.incarnation + 1
        if keep_inbox:
            row.inbox, row.message_ids, row.messages_sent = old.inbox, old.message_ids, old.messages_sent
        self._rows[key] = row
        return Applied(at_ms, key, row.messages_sent, is_held=alive is new)

    def _send(self, message: Message, at_ms: int) -> Outcome:
        row = self._find(message.run_id) if message.run_id else self._rows.get(message.run_key)
        if row is None or message.incarnation not in {None, row.incarnation}:
            return Fenced()
        is_new = message.id not in row.message_ids
        if is_new and row.status in ENDED:
            return Over(row.status)
        if is_new:
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

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """See `Store`."""
        drives = tuple(sorted(set(workflows)))
        if self._lease is None:
            self._workflows = {worker: drives}
        elif worker not in self._workers:
            self._workers[worker] = self.now_ms() + self._lease.lease_ms
            self._workflows[worker] = drives

    async def workers(self) -> list[WorkerRecord]:
        """See `Store`."""
        now_ms = self.now_ms()
        alive = sorted(each for each in self._workflows.items() if self._is_alive(each[0], now_ms))
        return [WorkerRecord(worker, workflows) for worker, workflows in alive]

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
            self._workflows.pop(worker, None)
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
                row.status, row.due_at_ms, row.updated_at_ms = "blocked", None, now_ms

    async def claim(
        self,
        worker: str,
        *,
        workflows: Sequence[str],
        queues: Sequence[str] = (DEFAULT_QUEUE,),
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
            and row.new.queue in queues
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
        if row is None or row.worker is not None or row.status in ENDED:
            return None
        return self._hold(row, worker)

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
        self._workflows.pop(worker, None)
        for row in self._rows.values():
            if row.worker == worker:
                row.worker, row.due_at_ms = None, self.now_ms()
