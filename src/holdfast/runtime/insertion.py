"""Putting a new run into the store, and driving it here at once if there is a slot (semantics row 48)."""

import asyncio
from collections.abc import Callable

from holdfast.core.evolve import evolve
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.patience import until_answered
from holdfast.runtime.replacing import replace
from holdfast.runtime.starts import OnConflict, Start, answering, check_existing, held_record
from holdfast.runtime.worker import Worker
from holdfast.stores.base import Store
from holdfast.stores.records import DEFAULT_QUEUE, Applied, Exists, NewRun, Outcome, Refused, RunRecord

_WHAT = "starting a run"


class Insertion:
    """One start on its way into the store."""

    def __init__(self, store: Store, worker: Worker, start: Start, bound: BoundWorkflow | None) -> None:
        """Args: where to, who may drive it here, what, and its code where that is here."""
        self._store = store
        self._worker = worker
        self._start = start
        self._bound = bound

    async def insert(self, on_conflict: OnConflict) -> None:
        """Write it; what happens where the id is taken says `on_conflict`.

        Raises:
            RunExistsError, RunConflictError, StoreRefusedError: Nothing was written.
        """
        while True:
            outcome = await self._write(None)
            if isinstance(outcome, Refused):
                raise outcome.error
            if not isinstance(outcome, Exists):
                return
            if on_conflict == "restart":
                is_there = await self._replace()
            else:
                is_there = await until_answered(lambda: self._check_existing(on_conflict), what=_WHAT)
            if is_there:
                return

    async def _check_existing(self, on_conflict: OnConflict) -> bool:
        return await check_existing(self._store, self._start.new_run(None), on_conflict)

    async def _replace(self) -> bool:
        """Put it in the place of the run that has the id; False if that one is gone or has changed."""
        record = await until_answered(lambda: self._store.find_run(self._start.run.id), what=_WHAT)
        if record is None:
            return False
        outcome = await self._write(record)
        if isinstance(outcome, Refused):
            raise outcome.error
        return isinstance(outcome, Applied)

    async def _write(self, instead: RunRecord | None) -> Outcome:
        """Insert, or replace; a caller who is cancelled must not leave a run that nobody drives."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        queue = DEFAULT_QUEUE if instead is None else instead.queue
        held = self._bound is not None and self._worker.reserve(queue)
        new = self._start.new_run(self._worker.worker_id if held else None)
        if instead is not None:
            new = answering(new, instead)

        def done(outcome: Outcome) -> None:
            try:
                self._drive(new, outcome, instead)
            finally:
                if held:
                    self._worker.unreserve()
            if not answer.done():
                answer.set_result(outcome)

        if instead is None:
            self._worker.group.submit(new, done)
        else:
            self._worker.spawn(self._replace_with(new, instead, done))
        return await answer

    async def _replace_with(self, new: NewRun, old: RunRecord, done: Callable[[Outcome], None]) -> None:
        done(await replace(self._store, new, old))

    def _drive(self, new: NewRun, outcome: Outcome, instead: RunRecord | None) -> None:
        if not isinstance(outcome, Applied):
            return
        if instead is not None:
            self._worker.disown(new.id, instead.epoch)
        if new.worker is None or self._bound is None or not outcome.is_held or self._start.over:
            return
        for entry in self._start.entries:
            evolve(self._start.run, entry, outcome.at_ms)
        record = held_record(new, outcome, new.worker, instead=instead)
        self._worker.adopt(record, self._start.run, self._bound, Inbox(new.id, (), sent=0))
