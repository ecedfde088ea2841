"""The contract over SQLite files."""

from pathlib import Path

from holdfast.ports import Clock
from holdfast.runtime.urls import store_at
from holdfast.testing.contract.place import Stores
from holdfast.testing.contract.suite import OwnedStoreContract


class TestSqlite(OwnedStoreContract):
    def stores(self, directory: Path, clock: Clock) -> Stores:
        return lambda: store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=clock)
