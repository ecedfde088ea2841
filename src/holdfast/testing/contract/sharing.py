"""Several openings of one store at once, as by several processes: they share it and lose nothing."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from holdfast.stores.records import Applied, Exists, Fenced, Over, Unread
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    OTHER,
    Place,
    append,
    applied,
    claim,
    commit_one,
    ended,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
    unheld,
)
from holdfast.testing.contract.tests import Tests

T = TypeVar("T")
U = TypeVar("U")

ROUNDS = 10
"""Of two transactions at once: enough to see each overtake the other."""


async def together(parts: Iterable[Awaitable[T]]) -> list[T]:
    """Await all at once."""

    async def one(part: Awaitable[T]) -> T:
        return await part

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(part)) for part in parts]
    return [task.result() for task in tasks]


async def both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """Await two of different kinds at once."""

    async def one() -> T:
        return await first

    async def other() -> U:
        return await second

    async with asyncio.TaskGroup() as group:
        tasks = group.create_task(one()), group.create_task(other())
    return tasks[0].result(), tasks[1].result()


class Sharing(Tests):
    """Several openings at once."""

    async def test_what_one_writes_the_other_reads_and_claims(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            key = await insert(one, "a")
            assert await claim(two, worker=OTHER) == ["a"]
            assert await claim(one) == []
            await applied(two, append(key, worker=OTHER))
            assert await entries_of(one, key) == [b"started", b"next"]
            assert (await find(one, "a")).worker == OTHER

    async def test_no_run_is_held_by_two_workers(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            await one.commit([new_run(f"run-{n}") for n in range(100)])
            claims = [claim((one, two)[n % 2], worker=(ME, OTHER)[n % 2], limit=30) for n in range(8)]
            found = sum(await together(claims), await claim(one))
            assert sorted(found) == sorted(f"run-{n}" for n in range(100))

    async def test_a_run_is_claimed_alone_by_one_of_two(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            for n in range(ROUNDS):
                await insert(one, f"run-{n}")
                held = await together([one.claim_one(ME, f"run-{n}"), two.claim_one(OTHER, f"run-{n}")])
                assert sorted(each is None for each in held) == [False, True]

    async def test_one_id_is_inserted_once(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            for n in range(ROUNDS):
                inserts = [commit_one(store, new_run(f"run-{n}")) for store in (one, two)]
                assert {type(outcome) for outcome in await together(inserts)} == {Applied, Exists}

    async def test_one_position_is_written_once(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            key = await insert_held(one, "a")
            for n in range(ROUNDS):
                appends = [commit_one(store, append(key, position=1 + n)) for store in (one, two)]
                assert {type(outcome) for outcome in await together(appends)} == {Applied, Fenced}
            assert len(await entries_of(one, key)) == 1 + ROUNDS

    async def test_no_wake_up_is_lost_between_a_message_and_parking(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            for n in range(ROUNDS):
                key = await insert_held(one, f"run-{n}")
                await together([commit_one(one, parked(key)), commit_one(two, message(key))])
                assert await claim(one) == [f"run-{n}"]

    async def test_of_a_claim_and_an_append_to_an_unheld_run_none_is_lost(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            for n in range(ROUNDS):
                key = await insert(one, f"run-{n}")
                control = commit_one(one, unheld(key, status="suspended", due_at_ms=0))
                outcome, claimed = await both(control, claim(two, worker=OTHER))
                is_written = isinstance(outcome, Applied)
                assert is_written or outcome == Fenced()
                assert len(await entries_of(one, key)) == 1 + is_written
                assert claimed + await claim(two, worker=OTHER) == [f"run-{n}"]
                assert (await find(one, f"run-{n}")).epoch == 1

    async def test_of_a_message_and_an_end_one_is_written(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            for n in range(ROUNDS):
                key = await insert_held(one, f"run-{n}")
                sent, end = await together([commit_one(two, message(key)), commit_one(one, ended(key))])
                is_over = isinstance(end, Applied)
                assert (sent == Over("completed")) if is_over else (end == Unread(1))
                assert await one.pending(key) == 1 - is_over

    async def test_groups_that_name_the_same_runs_in_another_order_are_all_written(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            keys = [await insert_held(one, run_id) for run_id in "abcde"]
            for n in range(ROUNDS):
                groups = [
                    one.commit([message(key, f"one-{n}") for key in keys]),
                    two.commit([message(key, f"two-{n}") for key in reversed(keys)]),
                ]
                for outcomes in await together(groups):
                    assert {type(outcome) for outcome in outcomes} == {Applied}
            for key in keys:
                assert [row.seq for row in await one.read_inbox(key)] == [*range(1, 2 * ROUNDS + 1)]

    async def test_appends_that_send_to_one_another_are_all_written(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            a, b = await insert_held(one, "a"), await insert_held(one, "b", worker=OTHER)
            for n in range(ROUNDS):
                appends = [
                    commit_one(one, append(a, position=1 + n, messages=(message(b, f"{n}"),))),
                    commit_one(two, append(b, position=1 + n, worker=OTHER, messages=(message(a, f"{n}"),))),
                ]
                assert {type(outcome) for outcome in await together(appends)} == {Applied}
            for key in (a, b):
                assert len(await entries_of(one, key)) == 1 + ROUNDS
                assert len(await one.read_inbox(key)) == ROUNDS

    async def test_the_runs_of_the_dead_are_freed_and_charged_once(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as one, place.opened() as two:
            await one.commit([new_run(f"run-{n}", worker=(ME, OTHER)[n % 2]) for n in range(20)])
            assert one.lease is not None
            clock.advance(one.lease.lease_ms)
            assert sum(await together(store.reap() for store in (one, two, one, two))) == 20
            rows = await one.list_runs(status=None, workflow=None, limit=100, after=None)
            assert {(row.worker, row.recoveries) for row in rows} == {(None, 1)}

    async def test_a_hint_may_be_asked_for_and_may_never_come(self, place: Place) -> None:
        async with place.opened() as one:
            other = place.another()
            hints: list[bool] = []
            other.on_hint(lambda: hints.append(True))
            await other.open()
            try:
                await insert(one, "a")
                assert await claim(other) == ["a"]
            finally:
                await other.close()
