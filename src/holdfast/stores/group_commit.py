"""Group commit: the appends of all runs of a process gather while a transaction is in flight.

There is no timer: what has gathered when one transaction ends is the next. A single member commits on the
loop's thread where the store allows it, because handing it over would cost more than the commit.

A write whose outcome is unknown is repeated as it was until the store answers (semantics row 27: trouble of
the store is never an error of a step). A repeated append that is fenced may have been applied the first time:
the journal tells, by the epoch of the entry at that position.
"""

import asyncio
from collections.abc import Callable, Sequence

from holdfast.errors import StoreUnavailableError
from holdfast.stores.base import (
    Append,
    Applied,
    Exists,
    Fenced,
    Member,
    NewRun,
    Outcome,
    Store,
)

GROUP_MAX = 1_024
"""Members of one transaction: it bounds how long one append waits behind the others."""
REPEAT_FIRST_S = 0.05
REPEAT_MAX_S = 1.0
"""Waits between tries while the store is down: at most one a second in the long run."""

Done = Callable[[Outcome], None]
Group = list[tuple[Member, Done]]


class GroupCommit:
    """Takes members from many, writes them together, and tells each its outcome."""

    def __init__(self, store: Store) -> None:
        """Args: the store to write to; `run` must be running before it works in the background."""
        self._store = store
        self._is_instant = store.is_instant
        self._pending: Group = []
        self._scheduled = False
        self._work = asyncio.Event()
        self._uncertain = False

    def submit(self, member: Member, done: Done) -> None:
        """Write `member` with the next transaction, then call `done(outcome)` on the loop's thread.

        An append of a run may be submitted once the one before it has its outcome. An instant store has
        answered before this returns.
        """
        if self._is_instant:
            outcomes = self._store.commit_now((member,))
            if outcomes is not None:
                done(outcomes[0])
                return
        self._pending.append((member, done))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def commit(self, member: Member) -> Outcome:
        """Write `member` with the next transaction and wait for its outcome.

        Cancelling the call does not take the member back.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        self.submit(member, done)
        return await future

    async def run(self) -> None:
        """Commit in the background until cancelled; what is pending then is not written.

        The next group is on its way before the members of the one before go on: the store writes while they
        are driven.
        """
        async with asyncio.TaskGroup() as tasks:
            written: Group = []
            outcomes: list[Outcome] = []
            while True:
                await self._work.wait()
                while self._pending or written:
                    group = self._take()
                    writing = tasks.create_task(self._write([member for member, _ in group])) if group else None
                    try:
                        await asyncio.sleep(0)
                    finally:
                        _deliver(written, outcomes)
                    written, outcomes = group, [] if writing is None else await writing
                self._work.clear()

    def _take(self) -> Group:
        group = self._pending[:GROUP_MAX]
        del self._pending[:GROUP_MAX]
        return group

    def _flush(self) -> None:
        self._scheduled = False
        if self._work.is_set():
            return
        group = self._take()
        try:
            outcomes = self._store.commit_now([member for member, _ in group])
        except StoreUnavailableError:
            outcomes = None
            self._uncertain = True
        if outcomes is None:
            self._pending[:0] = group
            self._work.set()
            return
        _deliver(group, outcomes)
        if self._pending and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def _write(self, members: Sequence[Member]) -> list[Outcome]:
        wait_s = REPEAT_FIRST_S
        repeated, self._uncertain = self._uncertain, False
        while True:
            try:
                outcomes = await self._store.commit(members)
            except StoreUnavailableError:
                repeated = True
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, REPEAT_MAX_S)
                continue
            if not repeated:
                return outcomes
            try:
                return [await self._recall(m, o) for m, o in zip(members, outcomes, strict=True)]
            except StoreUnavailableError:
                await asyncio.sleep(wait_s)

    async def _recall(self, member: Member, outcome: Outcome) -> Outcome:
        """What really became of a member that was written more than once."""
        if isinstance(member, Append) and isinstance(outcome, Fenced) and member.entries:
            rows = await self._store.read_journal(member.key, after=member.position)
            if rows and rows[0].epoch == member.epoch and rows[0].entry == member.entries[0]:
                read = member.messages_read or 0
                inbox = await self._store.read_inbox(member.key, after=read)
                sent = inbox[-1].seq if inbox else read
                return Applied(rows[0].at_ms, member.key, sent)
        if isinstance(member, NewRun) and isinstance(outcome, Exists):
            record = await self._store.find_run(member.id)
            if (
                record is not None
                and record.input_digest == member.input_digest
                and member.worker in {None, record.worker}
            ):
                return Applied(record.created_at_ms, record.key, record.messages_sent)
        return outcome


def _deliver(group: Group, outcomes: list[Outcome]) -> None:
    for (_, done), outcome in zip(group, outcomes, strict=True):
        done(outcome)
