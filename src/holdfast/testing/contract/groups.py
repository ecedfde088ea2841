"""Many members in one transaction: each is applied whole or not at all, whatever becomes of the others."""

import pytest

from holdfast.stores.records import Applied, Exists, Fenced
from holdfast.testing.contract.place import (
    ME,
    Place,
    append,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Groups(Tests):
    """Transactions of many members."""

    async def test_an_empty_group_is_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.commit([]) == []

    async def test_a_fenced_append_fails_alone(self, place: Place) -> None:
        async with place.opened() as store:
            good, stale, target = [await insert_held(store, run_id) for run_id in ("a", "b", "c")]
            await insert(store, "taken")
            outcomes = await store.commit(
                [
                    append(good),
                    append(stale, epoch=7, messages=(message(target, "never"),), children=(new_run("never"),)),
                    new_run("fresh"),
                    new_run("taken"),
                    message(target, "sent"),
                    append(9_999),
                ]
            )
            assert [type(outcome) for outcome in outcomes] == [
                Applied,
                Fenced,
                Applied,
                Exists,
                Applied,
                Fenced,
            ]
            assert await entries_of(store, good) == [b"started", b"next"]
            assert await entries_of(store, stale) == [b"started"]
            assert (await find(store, "fresh")).position == 1
            assert [row.id for row in await store.read_inbox(target)] == ["sent"]
            assert await store.find_run("never") is None

    async def test_all_members_of_a_group_have_one_stamp(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            outcomes = await store.commit([append(key), new_run("b"), message(key)])
            assert len({outcome.at_ms for outcome in outcomes if isinstance(outcome, Applied)}) == 1
            assert all(isinstance(outcome, Applied) for outcome in outcomes)

    async def test_held_runs_and_runs_given_back_share_a_group(self, place: Place) -> None:
        async with place.opened() as store:
            stays, leaves, ends = [await insert_held(store, run_id) for run_id in ("a", "b", "c")]
            group = [append(stays), parked(leaves, due_in_ms=1), parked(ends, status="completed")]
            outcomes = await store.commit(group)
            assert [outcome.key for outcome in outcomes if isinstance(outcome, Applied)] == [
                stays,
                leaves,
                ends,
            ]
            rows = [await find(store, run_id) for run_id in ("a", "b", "c")]
            assert [(row.status, row.worker) for row in rows] == [
                ("running", ME),
                ("suspended", None),
                ("completed", None),
            ]

    @pytest.mark.parametrize("size", [63, 64, 65, 1_000])
    async def test_a_group_of_any_size_is_written_whole(self, place: Place, size: int) -> None:
        async with place.opened() as store:
            inserted = await store.commit([new_run(f"run-{n}", worker=ME) for n in range(size)])
            keys = [outcome.key for outcome in inserted if isinstance(outcome, Applied)]
            assert len(set(keys)) == size
            stale = set(keys[::10])
            entries = {key: tuple(b"%d.%d" % (key, n) for n in range(key % 3 + 1)) for key in keys}
            outcomes = await store.commit(
                [append(key, epoch=2 if key in stale else 1, entries=entries[key]) for key in keys]
            )
            for key, outcome in zip(keys, outcomes, strict=True):
                if key in stale:
                    assert outcome == Fenced()
                    assert await entries_of(store, key) == [b"started"]
                else:
                    assert isinstance(outcome, Applied)
                    assert outcome.key == key
                    assert await entries_of(store, key) == [b"started", *entries[key]]

    async def test_a_thousand_members_of_all_kinds_keep_their_order(self, place: Place) -> None:
        async with place.opened() as store:
            held = await store.commit([new_run(f"held-{n}", worker=ME) for n in range(250)])
            keys = [outcome.key for outcome in held if isinstance(outcome, Applied)]
            group = [
                member
                for n, key in enumerate(keys)
                for member in (
                    append(key, epoch=n % 2 + 1),
                    new_run(f"new-{n}"),
                    message(key, f"m-{n}"),
                    new_run(f"held-{n}"),
                )
            ]
            outcomes = await store.commit(group)
            appends = [Applied if n % 2 == 0 else Fenced for n in range(250)]
            assert [type(outcome) for outcome in outcomes[::4]] == appends
            assert {type(outcome) for outcome in outcomes[1::4]} == {Applied}
            sent = [(o.key, o.messages_sent) for o in outcomes[2::4] if isinstance(o, Applied)]
            assert sent == [(key, 1) for key in keys]
            assert set(outcomes[3::4]) == {Exists()}
            assert (await find(store, "new-249")).position == 1
