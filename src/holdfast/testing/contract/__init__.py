"""The contract of a store, as tests: what the engine relies on, for whoever writes a store.

A class of tests over a store of one's own, where several processes share it and workers have leases:

```python
from holdfast.testing.contract.place import LEASE
from holdfast.testing.contract.suite import SharedStoreContract


class TestMyStore(SharedStoreContract):
    def stores(self, directory, clock):
        return lambda: MyStore(directory / "runs", clock=clock, lease=LEASE)
```

`OwnedStoreContract` is for a store that one process drives alone, as `sqlite` and `memory` are. What
`stores` returns is called for each opening of the store, also for the second one of a test: what was committed
before must be there. The clock is the machine's, as the test moves it.

It needs pytest and no plugin: each test has an event loop of its own. For failures that show their values, let
`conftest.py` say `pytest.register_assert_rewrite("holdfast.testing.contract")`.
"""
