"""Values that a database can never hold: their member is refused, everything else of the group is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.ports import Clock
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Store
from holdfast.stores.records import Applied, Fenced, Member, Refused
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    LEASE,
    ME,
    Place,
    Stores,
    append,
    entries_of,
    find,
    insert_held,
    message,
    new_run,
    parked,
)
from tests.postgres_places import postgres

TOO_LARGE = 2**70
LONE_SURROGATE = "lone \ud800 surrogate"

UNENCODABLE: dict[str, Callable[[int], Member]] = {
    "due time": lambda key: parked(key, due_at_ms=TOO_LARGE),
    "status": lambda key: append(key, status=LONE_SURROGATE),
    "run id": lambda _key: new_run(LONE_SURROGATE, worker=ME),
    "priority": lambda _key: new_run("never", priority=TOO_LARGE),
    "message id": lambda key: message(key, LONE_SURROGATE),
    "child": lambda key: append(key, children=(new_run("never"), new_run(LONE_SURROGATE))),
    "sent message's run": lambda key: append(key, messages=(message(0, run_id=LONE_SURROGATE),)),
    "sent message": lambda key: append(key, messages=(message(key, name=LONE_SURROGATE),)),
}


def sqlite(directory: Path, clock: Clock) -> Stores:
    return lambda: store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=clock)


def on_postgres(_directory: Path, clock: Clock) -> Stores:
    return postgres(clock, moves=False, lease=LEASE)


@pytest.fixture(params=[sqlite, on_postgres])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    clock = VirtualClock()
    return Place(request.param(tmp_path, clock), clock)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    clock = VirtualClock()
    return Place(sqlite(tmp_path, clock), clock)


@pytest.fixture(params=UNENCODABLE)
def unencodable(request: pytest.FixtureRequest) -> Callable[[int], Member]:
    return UNENCODABLE[request.param]


async def group_of(store: Store, unencodable: Callable[[int], Member]) -> tuple[list[int], list[Member]]:
    """Keys of four held runs, and a group in which the second is fenced and the third refused."""
    keys = [await insert_held(store, run_id) for run_id in ("good", "fenced", "refused", "target")]
    good, fenced, refused, target = keys
    return keys, [
        append(good, entries=(b"two", b"three"), children=(new_run("child"),)),
        append(fenced, epoch=5, entries=(b"never",)),
        unencodable(refused),
        message(target),
        new_run("fresh"),
        append(target, entries=(b"last",), messages_read=1),
    ]


async def check_written(store: Store, keys: list[int]) -> None:
    good, fenced, refused, target = keys
    assert await entries_of(store, good) == [b"started", b"two", b"three"]
    assert await entries_of(store, fenced) == [b"started"]
    assert await entries_of(store, refused) == [b"started"]
    assert await entries_of(store, target) == [b"started", b"last"]
    positions = [(await find(store, run_id)).position for run_id in ("good", "fenced", "refused", "target")]
    assert positions == [3, 1, 1, 2]
    row = await find(store, "refused")
    assert (row.status, row.worker, row.messages_sent) == ("running", ME, 0)
    assert [item.id for item in await store.read_inbox(target)] == ["m-1"]
    assert await store.read_inbox(refused) == []
    for run_id in ("child", "fresh"):
        child = await find(store, run_id)
        assert await entries_of(store, child.key) == [b"started"]
    assert await store.find_run("never") is None


KINDS = [Applied, Fenced, Refused, Applied, Applied, Applied]


async def test_a_group_with_one_fenced_and_one_unencodable_member_commits_the_others(
    place: Place, unencodable: Callable[[int], Member]
) -> None:
    async with place.opened() as store:
        keys, group = await group_of(store, unencodable)
        outcomes = await store.commit(group)
        assert [type(outcome) for outcome in outcomes] == KINDS
        await check_written(store, keys)
    async with place.opened() as store:
        await check_journals_after_reopening(store, keys)


async def check_journals_after_reopening(store: Store, keys: list[int]) -> None:
    assert [len(await store.read_journal(key)) for key in keys] == [3, 1, 1, 2]


async def test_the_same_group_through_commit_now(
    sqlite_place: Place, unencodable: Callable[[int], Member]
) -> None:
    async with sqlite_place.opened() as store:
        keys, group = await group_of(store, unencodable)
        # A group is left to the writer's thread, and nothing of it is written.
        assert store.commit_now(group) is None
        assert [len(await store.read_journal(key)) for key in keys] == [1, 1, 1, 1]
        outcomes = [outcome for member in group for outcome in store.commit_now([member]) or []]
        assert [type(outcome) for outcome in outcomes] == KINDS
        await check_written(store, keys)


async def test_a_refusal_says_what_can_not_be_held(place: Place) -> None:
    async with place.opened() as store:
        key = await insert_held(store, "a")
        group = [parked(key, due_at_ms=TOO_LARGE), new_run(LONE_SURROGATE)]
        first, second = await store.commit(group)
        assert isinstance(first, Refused)
        assert isinstance(second, Refused)
        assert any(words in str(first.error) for words in ("too large", "out of int64 range"))
        assert "surrogates" in str(second.error)
        assert first.error.code == "store_refused"


async def test_a_run_whose_append_was_refused_goes_on(place: Place) -> None:
    async with place.opened() as store:
        key = await insert_held(store, "a")
        await store.commit([parked(key, due_at_ms=TOO_LARGE)])
        (outcome,) = await store.commit([append(key)])
        assert isinstance(outcome, Applied)
        assert await entries_of(store, key) == [b"started", b"next"]


async def test_only_the_unencodable_members_of_a_large_group_are_refused(place: Place) -> None:
    async with place.opened() as store:
        ids = [LONE_SURROGATE if n % 100 == 50 else f"run-{n}" for n in range(300)]
        outcomes = await store.commit([new_run(run_id) for run_id in ids])
        kinds = [Refused if run_id == LONE_SURROGATE else Applied for run_id in ids]
        assert [type(outcome) for outcome in outcomes] == kinds
        listed = await store.list_runs(status=None, workflow=None, limit=500, after=None)
        assert [run.id for run in reversed(listed)] == [run_id for run_id in ids if run_id != LONE_SURROGATE]
