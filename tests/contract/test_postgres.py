"""The contract over PostgreSQL, with a server whose clock follows the test's."""

from pathlib import Path

from holdfast.ports import Clock
from holdfast.stores.records import Applied, Refused
from holdfast.testing.contract.place import (
    LEASE,
    ME,
    OTHER,
    Place,
    Stores,
    claim,
    find,
    insert,
    insert_held,
    new_run,
)
from holdfast.testing.contract.suite import SharedStoreContract
from tests.postgres_places import emptied_schema, postgres
from tests.postgres_server import portal


class TestPostgres(SharedStoreContract):
    def stores(self, _directory: Path, clock: Clock) -> Stores:
        self.schema = emptied_schema()
        return postgres(clock, moves=False, lease=LEASE, schema=self.schema)

    async def test_text_with_a_zero_byte_is_refused_alone(self, place: Place) -> None:
        async with place.opened() as store:
            outcomes = await store.commit([new_run("a"), new_run("b\x00"), new_run("c")])
            assert [type(outcome) for outcome in outcomes] == [Applied, Refused, Applied]

    async def test_runs_of_a_holder_that_has_no_lease_at_all_are_freed(self, place: Place) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            await insert(store, "others", worker=OTHER)
            portal().execute(f"delete from {self.schema.name}.workers where id = '{ME}'")  # noqa: S608
            assert await store.reap() == 1
            assert (await find(store, "a")).recoveries == 1
            assert await claim(store, worker=OTHER) == ["a"]
            assert [run.id for run in await store.held(OTHER)] == ["a", "others"]
