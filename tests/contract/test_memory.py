"""The contract over the memory store: of one process, and with leases as if several shared it."""

from pathlib import Path

from holdfast.ports import Clock
from holdfast.stores.memory import MemoryStore
from holdfast.testing.contract.place import LEASE, Stores
from holdfast.testing.contract.suite import OwnedStoreContract, SharedStoreContract


class TestMemory(OwnedStoreContract):
    def stores(self, _directory: Path, clock: Clock) -> Stores:
        store = MemoryStore(clock)  # one object: it keeps what it has when it is opened again
        return lambda: store


class TestMemoryWithLeases(SharedStoreContract):
    def stores(self, _directory: Path, clock: Clock) -> Stores:
        store = MemoryStore(clock, lease=LEASE)
        return lambda: store
