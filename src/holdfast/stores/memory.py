"""The memory store: the protocol without a disk. For `run()`, for tests, and as the simulator's model."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from holdfast.ports import Clock
from holdfast.stores.base import (
    Append,
    Applied,
    Definition,
    Exists,
    Fenced,
    InboxRow,
    JournalRow,
    Member,
    Message,
    NewRun,
    Outcome,
    RunRecord,
    Snapshot,
    due_at,
)

PRIORITY_STEP_MS = 300_000


class _Row:
    """A run: its header's moving parts, its journal and its inbox."""

    __slots__ = (
        "at_ms",
        "due_at_ms",
        "epoch",
        "inbox",
        "incarnation",
        "journal",
        "key",
        "message_ids",
        "messages_sent",
        "new",
        "position",
        "recoveries",
        "snapshot",
        "status",
        "updated_at_ms",
        "worker",
    )

    def __init__(self, key: int, new: NewRun, at_ms: int) -> None:
        self.key = key
        self.new = new
        self.incarnation = 1
        self.epoch = 0 if new.worker is None else 1
        self.status = new.over or ("pending" if new.worker is None else "running")
        self.worker = new.worker
        self.due_at_ms: int | None = None if new.over else at_ms
        self.messages_sent = 0
        self.recoveries = 0
        self.at_ms = at_ms
        self.updated_at_ms = at_ms
        self.position = len(new.entries)
        self.journal = [(0, at_ms, entry) for entry in new.entries]
        self.inbox: list[InboxRow] = []
        self.message_ids: set[str] = set()
        self.snapshot: Snapshot | None = None


class MemoryStore:
    """Keeps runs in dictionaries; everything is lost with the object."""

    def __init__(self, clock: Clock) -> None:
        """Args: where its time comes from."""
        self._clock = clock
        self._base_ms = clock.wall_ms() - clock.monotonic_ms()
        self._rows: dict[int, _Row] = {}
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
    def poll_ms(self) -> int | None:
        """See `Store`."""
        return None

    def now_ms(self) -> int:
        """See `Store`."""
        return int(self._base_ms + self._clock.monotonic_ms())

    async def open(self) -> None:
        """See `Store`. Frees every held run: an engine opens it after the one before has died."""
        for row in self._rows.values():
            if row.worker is not None:
                row.worker, row.due_at_ms = None, 0
                row.recoveries += 1

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
        if row is None or row.epoch != append.epoch or row.position != append.position:
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

    def _spawn(self, row: _Row, append: Append, at_ms: int) -> None:
        row.inbox = [message for message in row.inbox if message.seq not in append.consumed]
        for child in append.children:
            self._insert(child, at_ms)
        for message in append.messages:
            self._send(message, at_ms)

    def _insert(self, new: NewRun, at_ms: int) -> Outcome:
        if new.id in self._keys:
            return Exists()
        key = len(self._rows) + 1
        self._keys[new.id] = key
        self._rows[key] = _Row(key, new, at_ms)
        return Applied(at_ms, key)

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

    async def claim(
        self, worker: str, *, workflows: Sequence[str], limit: int, excluded: Sequence[str] = ()
    ) -> list[RunRecord]:
        """See `Store`."""
        now_ms = self.now_ms()
        due = [
            row
            for row in self._unheld()
            if row.due_at_ms is not None
            and row.due_at_ms <= now_ms
            and row.new.workflow in workflows
            and row.new.fingerprint not in excluded
        ]
        due.sort(key=lambda row: (row.due_at_ms or 0) + PRIORITY_STEP_MS * (row.new.priority - 1))
        return [self._hold(row, worker) for row in due[:limit]]

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        row = self._find(run_id)
        if row is None or row.worker is not None or row.status in {"completed", "failed", "cancelled"}:
            return None
        return self._hold(row, worker)

    def _unheld(self) -> Iterable[_Row]:
        return (row for row in self._rows.values() if row.worker is None)

    def _hold(self, row: _Row, worker: str) -> RunRecord:
        row.worker = worker
        row.epoch += 1
        if row.status == "pending":
            row.status = "running"
        return _record(row)

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`."""
        for key, epoch in held:
            row = self._rows.get(key)
            if row is not None and row.epoch == epoch and row.worker is not None:
                row.worker, row.due_at_ms = None, self.now_ms()

    async def release_all(self, worker: str) -> None:
        """See `Store`."""
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
        return None if row is None else _record(row)

    def _find(self, run_id: str) -> _Row | None:
        return self._rows.get(self._keys.get(run_id, 0))

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """See `Store`."""
        wanted: Callable[[_Row], bool] = lambda row: (  # noqa: E731 - read beside its one use
            status in {None, row.status}
            and workflow in {None, row.new.workflow}
            and (after is None or row.key < after)
        )
        return [_record(row) for row in reversed(self._rows.values()) if wanted(row)][:limit]

    def next_due_at_ms(self) -> int | None:
        """See `Store`."""
        return min((r.due_at_ms for r in self._unheld() if r.due_at_ms is not None), default=None)

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


def _record(row: _Row) -> RunRecord:
    new = msgspec.structs.asdict(row.new)
    del new["entries"], new["worker"], new["over"]
    return RunRecord(
        **new,
        key=row.key,
        incarnation=row.incarnation,
        epoch=row.epoch,
        position=row.position,
        status=row.status,
        worker=row.worker,
        due_at_ms=row.due_at_ms,
        messages_sent=row.messages_sent,
        recoveries=row.recoveries,
        created_at_ms=row.at_ms,
        updated_at_ms=row.updated_at_ms,
    )
