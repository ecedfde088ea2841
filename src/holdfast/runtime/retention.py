"""Removing runs whose time is over (semantics row 58), in small transactions, beside all other work."""

import asyncio
import logging
from collections.abc import Mapping

from holdfast.errors import StoreUnavailableError
from holdfast.ports import Clock
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.limits import SWEEP_MAX, SWEEP_MS
from holdfast.stores.base import Store

LOGGER = logging.getLogger("holdfast.worker")


class Sweeper:
    """Sweeps the runs of the workflows that this process drives."""

    def __init__(
        self, store: Store, bound: Mapping[str, BoundWorkflow], kept_ms: Mapping[str, int], clock: Clock
    ) -> None:
        """Args: where, which workflows, how long runs are kept unless a workflow says, and the clock."""
        self._store = store
        self._clock = clock
        self._kept_ms = {name: dict(each.workflow.retention_ms or kept_ms) for name, each in bound.items()}

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while any(self._kept_ms.values()):
            try:
                if self._store.may_drive:
                    await self.sweep()
            except StoreUnavailableError as error:
                LOGGER.info("runs whose retention is over stay for now: %s", error)
            due = asyncio.Event()
            timer = self._clock.call_later(SWEEP_MS, due.set)
            try:
                await due.wait()
            finally:
                timer.cancel()

    async def sweep(self) -> int:
        """Remove every run whose retention is over; how many there were."""
        removed = 0
        for name, kept_ms in self._kept_ms.items():
            for status, ms in kept_ms.items():
                before_ms = self._store.now_ms() - ms
                count = SWEEP_MAX
                while count == SWEEP_MAX:
                    count = await self._store.sweep(name, status, before_ms=before_ms, limit=SWEEP_MAX)
                    removed += count
        return removed
