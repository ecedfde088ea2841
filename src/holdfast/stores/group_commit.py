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
from holdfast.stores.base import Store
from holdfast.stores.records import Append, Applied, Exists, Fenced, Member, NewRun, Outcome

GROUP_MAX = 512
"""Members of one transaction. It bounds how long one append waits behind the others, and splits a crowd: while
a server writes one part, the loop drives the part before."""
REPEAT_FIRST_S = 0.05
REPEAT_MAX_S = 1.0
"""Waits between tries while the store is down: at most one a second in the long run."""

Done = Callable[[Outcome], None]
Group = list[tuple[Member, Done]]


class GroupCommit:
    """Takes members from many, writes them together, and tells each its outcome."""

    def __init__(self, store: Store, *, has_lapsed: Callable[[], bool] = lambda: False) -> None:
        """Make it; `run` must be running before it works in the background.

        Args:
            store: The store to write to.
            has_lapsed: Whether appends may not be written any more: then they are fenced here.
        """
        self._store = store
        self._has_lapsed = has_lapsed
        self._is_instant = store.is_instant
        self._pending: Group = []
        # Whether there are appends of somebody who does not hold the run.
        self._has_outsiders = False
        self._scheduled = False
        self._work = asyncio.Event()
        self._uncertain_since_ms: int | None = None
        self._life = 0

    @property
    def is_writing(self) -> bool:
        """Whether any member has no outcome yet."""
        return bool(self._pending) or self._work.is_set()

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
        if type(member) is Append and not member.is_held:
            self._has_outsiders = True
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

    def fence(self) -> None:
        """Write no append that was submitted so far: its lease has run out, whoever has the next one."""
        self._life += 1
        pending, self._pending = self._pending, []
        for member, done in pending:
            if isinstance(member, Append):
                done(Fenced())
            else:
                self._pending.append((member, done))

    async def run(self) -> None:
        """Commit in the background until cancelled; what is pending then is not written.

        The next group is on its way before the members of the one before go on: the store writes while they
        are driven.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._work.wait()
                await self._write_all(tasks)
                self._work.clear()

    async def _write_all(self, tasks: asyncio.TaskGroup) -> None:
        written: Group = []
        outcomes: list[Outcome] = []
        while self._pending or written:
            group = self._take()
            members = [member for member, _ in group]
            if group and written:
                writing = tasks.create_task(self._write(members))
                try:
                    await asyncio.sleep(0)
                finally:
                    _deliver(written, outcomes)
                outcomes = await writing
            else:
                _deliver(written, outcomes)
                outcomes = await self._write(members) if group else []
            written = group

    def _take(self) -> Group:
        group = self._pending[:GROUP_MAX]
        if self._has_outsiders:
            # Else a run has one append under way, its driver's. A group names a run once.
            group = _before_the_second(group)
            self._has_outsiders = len(group) < len(self._pending)
        del self._pending[: len(group)]
        return group

    def _flush(self) -> None:
        self._scheduled = False
        if self._work.is_set():
            return
        had_outsiders, group, since_ms = self._has_outsiders, self._take(), self._store.now_ms()
        try:
            outcomes = None if self._has_lapsed() else self._store.commit_now([member for member, _ in group])
        except StoreUnavailableError:
            outcomes = None
            self._uncertain_since_ms = since_ms
        if outcomes is None:
            self._pending[:0] = group
            self._has_outsiders = had_outsiders
            self._work.set()
            return
        _deliver(group, outcomes)
        if self._pending and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def _write(self, members: Sequence[Member]) -> list[Outcome]:
        """Write until there is an answer; what may not be written any more is fenced."""
        wait_s, life = REPEAT_FIRST_S, self._life
        repeated = self._uncertain_since_ms is not None
        since_ms = self._uncertain_since_ms or self._store.now_ms()
        self._uncertain_since_ms = None
        while True:
            try:
                outcomes = await self._write_once(members, life)
            except StoreUnavailableError:
                repeated = True
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, REPEAT_MAX_S)
                continue
            if not repeated:
                return outcomes
            try:
                return [await self._recall(m, o, since_ms) for m, o in zip(members, outcomes, strict=True)]
            except StoreUnavailableError:
                await asyncio.sleep(wait_s)

    async def _write_once(self, members: Sequence[Member], life: int) -> list[Outcome]:
        if life == self._life and not self._has_lapsed():
            return await self._store.commit(members)
        rest = [member for member in members if not isinstance(member, Append)]
        written = iter(await self._store.commit(rest) if rest else ())
        return [Fenced() if isinstance(member, Append) else next(written) for member in members]

    async def _recall(self, member: Member, outcome: Outcome, since_ms: int) -> Outcome:
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
            # Whoever started the same at the same time, with the same id, has started this run, too.
            if (
                record is not None
                and record.input_digest == member.input_digest
                and record.created_at_ms >= since_ms
            ):
                return Applied(
                    record.created_at_ms,
                    record.key,
                    record.messages_sent,
                    is_held=member.worker == record.worker,
                )
        return outcome


def _before_the_second(group: Group) -> Group:
    """The group up to the second append of one run."""
    keys: set[int] = set()
    for index, (member, _) in enumerate(group):
        if isinstance(member, Append):
            if member.key in keys:
                return group[:index]
            keys.add(member.key)
    return group


def _deliver(group: Group, outcomes: list[Outcome]) -> None:
    for (_, done), outcome in zip(group, outcomes, strict=True):
        done(outcome)
