"""What the memory store keeps of a run."""

import msgspec

from holdfast.stores.records import InboxRow, JournalRow, NewRun, RunRecord, Snapshot


class Row:
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
        """A run that was just inserted."""
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
        self.journal = [JournalRow(n, 0, at_ms, entry) for n, entry in enumerate(new.entries, 1)]
        self.inbox: list[InboxRow] = []
        self.message_ids: set[str] = set()
        self.snapshot: Snapshot | None = None


def record_of(row: Row) -> RunRecord:
    """The row as readers get it."""
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
