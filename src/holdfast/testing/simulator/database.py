"""The database that all simulated processes share: the memory store, watched after each transaction."""

from collections.abc import Callable, Sequence

from holdfast.ports import Clock
from holdfast.stores.memory import MemoryStore
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Append,
    Applied,
    Claimed,
    LeaseTimes,
    Member,
    Message,
    NewRun,
    Outcome,
    RunRecord,
)

Look = Callable[[bool], None]
"""Called after each transaction; True after one that reaps."""
Accepted = Callable[[Row, Append], None]
"""Called for each append that was applied, with the row as it is then."""
Stored = Callable[[Row, Message], None]
"""Called for each message that was acknowledged, with the row as it is then."""


class Database(MemoryStore):
    """See the module.

    Attributes:
        look, accepted, stored: What watches it.
        anew: Runs that have begun anew with their messages, by key, with the incarnation that did.
    """

    def __init__(self, clock: Clock, lease: LeaseTimes) -> None:
        """Args: the database's own clock, and the times of leases."""
        super().__init__(clock, lease=lease)
        self.look: Look = lambda _reaping: None
        self.accepted: Accepted = lambda _row, _append: None
        self.stored: Stored = lambda _row, _message: None
        self.anew: set[tuple[int, int]] = set()

    @property
    def rows(self) -> Sequence[Row]:
        """All runs, in the order of their keys."""
        return list(self._rows.values())

    def find_row(self, run_id: str) -> Row | None:
        """A run, or None."""
        return self._find(run_id)

    def has_lease(self, worker: str) -> bool:
        """Whether the worker has a lease that nobody has ended, expired or not."""
        return worker in self._workers

    def renew(self, worker: str) -> bool:
        """What `renewals()` asks for."""
        return self._renew(worker)

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`. Watched after each member: what a group writes, it writes in its order."""
        outcomes: list[Outcome] = []
        for member in group:
            (outcome,) = await super().commit([member])
            if isinstance(member, Append) and isinstance(outcome, Applied):
                self.accepted(self._rows[member.key], member)
            elif isinstance(member, Message) and isinstance(outcome, Applied):
                self.stored(self._rows[outcome.key], member)
            self.look(False)  # noqa: FBT003 - the only argument
            outcomes.append(outcome)
        return outcomes

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
        claimed = await super().claim(
            worker, workflows=workflows, queues=queues, limit=limit, suspects=suspects, excluded=excluded
        )
        self.look(False)  # noqa: FBT003 - as above
        return claimed

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        record = await super().claim_one(worker, run_id)
        self.look(False)  # noqa: FBT003 - as above
        return record

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`."""
        await super().release(held)
        self.look(False)  # noqa: FBT003 - as above

    async def retire(self, worker: str) -> None:
        """See `Store`."""
        await super().retire(worker)
        self.look(False)  # noqa: FBT003 - as above

    async def reap(self) -> int:
        """See `Store`."""
        freed = await super().reap()
        self.look(True)  # noqa: FBT003 - as above
        return freed

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`."""
        outcome = await super().replace(new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        if keep_inbox and isinstance(outcome, Applied):
            self.anew.add((key, self._rows[key].incarnation))
        self.look(False)  # noqa: FBT003 - as above
        return outcome

    async def delete(self, key: int) -> bool:
        """See `Store`."""
        is_removed = await super().delete(key)
        self.look(False)  # noqa: FBT003 - as above
        return is_removed

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """See `Store`."""
        removed = await super().sweep(workflow, status, before_ms=before_ms, limit=limit)
        self.look(False)  # noqa: FBT003 - as above
        return removed
