"""What the memory store keeps, and looking it up."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from holdfast.stores.memory_rows import Row, record_of
from holdfast.stores.records import ENDED, Definition, InboxRow, JournalRow, RunRecord, Snapshot, Stored


class MemoryTables:
    """Dictionaries of runs and definitions, and the part of the protocol that needs no more than them."""

    def __init__(self) -> None:
        """Nothing is kept."""
        self._rows: dict[int, Row] = {}
        self._keys: dict[str, int] = {}
        self._key_last = 0
        self._definitions: dict[tuple[str, str], Definition] = {}
        self._current: dict[str, str] = {}

    def _new_key(self) -> int:
        """One that no run ever had: who still names a deleted run must not reach another one."""
        self._key_last += 1
        return self._key_last

    def _find(self, run_id: str) -> Row | None:
        return self._rows.get(self._keys.get(run_id, 0))

    def _unheld(self) -> Iterable[Row]:
        return (row for row in self._rows.values() if row.worker is None)

    def _remove(self, row: Row) -> None:
        del self._rows[row.key]
        del self._keys[row.new.id]

    def _is_awaited(self, row: Row) -> bool:
        """Whether the run that started it is there, still the same incarnation, and not over."""
        parent = None if row.new.parent_key is None else self._rows.get(row.new.parent_key)
        if parent is None or parent.incarnation != row.new.parent_incarnation:
            return False
        return parent.status not in ENDED

    async def delete(self, key: int) -> bool:
        """See `Store`."""
        row = self._rows.get(key)
        if row is None or row.status not in ENDED or self._is_awaited(row):
            return False
        self._remove(row)
        return True

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """See `Store`."""
        old = [
            row
            for row in self._unheld()
            if row.status == status
            and status in {*ENDED, "blocked"}
            and row.new.workflow == workflow
            and row.updated_at_ms < before_ms
            and not self._is_awaited(row)
        ]
        old.sort(key=lambda row: row.updated_at_ms)
        for row in old[:limit]:
            self._remove(row)
        return len(old[:limit])

    async def held(self, worker: str) -> list[RunRecord]:
        """See `Store`."""
        return [record_of(row) for row in self._rows.values() if row.worker == worker]

    async def counts(self, worker: str) -> list[tuple[int, int]]:
        """See `Store`."""
        held = (row for row in self._rows.values() if row.worker == worker)
        return [(row.key, row.messages_sent) for row in held if row.messages_sent]

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """See `Store`."""
        return self._rows[key].journal[after:] if key in self._rows else []

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """See `Store`."""
        row = self._rows.get(key)
        return [] if row is None else [each for each in row.inbox if each.seq > after]

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        """See `Store`."""
        loaded: list[Stored] = []
        for key in keys:
            row = self._rows.get(key)
            snapshot = None if row is None else row.snapshot
            after = 0 if snapshot is None else snapshot.position
            journal = await self.read_journal(key, after=after)
            loaded.append(Stored(snapshot, journal, await self.read_inbox(key)))
        return loaded

    async def pending(self, key: int) -> int:
        """See `Store`."""
        row = self._rows.get(key)
        return 0 if row is None else len(row.inbox)

    async def find_run(self, run_id: str) -> RunRecord | None:
        """See `Store`."""
        row = self._find(run_id)
        return None if row is None else record_of(row)

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
        name, fingerprint = definition.name, definition.fingerprint
        known = self._definitions.get((name, fingerprint))
        if known is not None and not current:
            definition = msgspec.structs.replace(definition, structure=known.structure)
        self._definitions[name, fingerprint] = definition
        if current:
            self._current[name] = fingerprint

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
