"""`WatchedStore`: a store whose calls are counted, so that a test knows when nothing is under way."""

from collections.abc import Sequence

from holdfast.stores.base import Store
from holdfast.stores.records import Member, Outcome
from holdfast.testing.faults import Ask, Choose, Fault, FaultyStore, T


def never(number: int, group: Sequence[Member]) -> Fault:
    """No fault at all."""
    del number, group
    return Fault.NONE


class WatchedStore(FaultyStore):
    """Wraps a store for `TestEngine`.

    Attributes:
        calls: How many calls have begun and not ended.
    """

    def __init__(self, inner: Store, choose: Choose = never) -> None:
        """Args: the real store, and the fault of each commit."""
        super().__init__(inner, choose)
        self.calls = 0

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`. Never: a virtual month would be 26 million looks; the engine is told to look instead."""
        return None

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        self.calls += 1
        try:
            return await super().commit(group)
        finally:
            self.calls -= 1

    async def _reach(self, call: str, ask: Ask[T]) -> T:
        self.calls += 1
        try:
            return await super()._reach(call, ask)
        finally:
            self.calls -= 1
