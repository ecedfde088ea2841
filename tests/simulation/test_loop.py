"""The loop in virtual time, alone."""

import asyncio
import contextvars
import gc
import random
from collections.abc import Callable, Coroutine

import pytest

from holdfast.testing.simulator.loop import LANE, Lane, SimulatedLoop
from holdfast.testing.simulator.simulate import simulate
from holdfast.testing.simulator.world import World

Main = Coroutine[object, object, object]


def loop_of(seed: int = 1, *, is_shuffled: bool = True) -> SimulatedLoop:
    return SimulatedLoop(random.Random(seed), is_shuffled=is_shuffled)


def run(main: Callable[[], Main], loop: SimulatedLoop | None = None, lane: Lane | None = None) -> SimulatedLoop:
    loop = loop or loop_of()
    context = contextvars.copy_context()
    context.run(LANE.set, lane)
    task = loop.create_task(main(), context=context)
    assert loop.run(task.done, calls_max=10_000)
    task.result()
    return loop


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> None:
        await asyncio.sleep(3_600)

    assert run(main).time() == 3_600


def test_the_seed_orders_what_is_ready() -> None:
    def order(seed: int, *, is_shuffled: bool = True) -> list[int]:
        seen: list[int] = []

        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                for n in range(8):
                    tasks.create_task(note(n))

        async def note(n: int) -> None:
            seen.append(n)

        run(main, loop_of(seed, is_shuffled=is_shuffled))
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5
    assert order(1, is_shuffled=False) == list(range(8))


def test_timeouts_shields_and_events_work() -> None:
    async def main() -> None:
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(5, event.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await event.wait()
        assert loop.time() == 2
        async with asyncio.TaskGroup() as tasks:
            inner = tasks.create_task(event.wait())
            outer = tasks.create_task(hold(inner))
            await asyncio.sleep(1)
            outer.cancel()
        assert loop.time() == 5
        assert inner.result()

    async def hold(inner: asyncio.Task[bool]) -> None:
        await asyncio.shield(inner)

    run(main)


def test_tasks_are_named_by_their_lane() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert task.get_name() == "here/1"

    run(main, lane=Lane("here"))


def test_a_paused_lane_waits_and_others_go_on() -> None:
    loop, frozen, seen = loop_of(), Lane("frozen"), list[tuple[str, float]]()

    async def main() -> None:
        loop.post(frozen, 1, lambda: seen.append(("frozen", loop.time())))
        loop.post(loop.outside, 2, lambda: seen.append(("free", loop.time())))
        loop.pause(frozen)
        loop.post(loop.outside, 10, lambda: loop.resume(frozen))
        await asyncio.sleep(20)

    run(main, loop)
    assert seen == [("free", 2), ("frozen", 10)]


def test_a_lane_that_was_paused_twice_is_resumed_twice() -> None:
    loop, lane, seen = loop_of(), Lane("lane"), list[float]()

    async def main() -> None:
        for _ in range(2):
            loop.pause(lane)
        loop.post(lane, 0, lambda: seen.append(loop.time()))
        for at_s in (3, 7):
            loop.post(loop.outside, at_s, lambda: loop.resume(lane))
        await asyncio.sleep(20)

    run(main, loop)
    assert seen == [7]


def test_a_buried_lane_ends_at_once_and_does_nothing_more() -> None:
    loop, lane, seen = loop_of(), Lane("lane"), list[str]()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(5)
        finally:
            seen.append("ended")

    async def main() -> None:
        context = contextvars.copy_context()
        context.run(LANE.set, lane)
        task = loop.create_task(stubborn(), context=context)
        loop.post(lane, 9, lambda: seen.append("never"))
        await asyncio.sleep(1)
        loop.urge(lambda: seen.append(f"buried {loop.bury(lane)}"))
        await asyncio.sleep(0)
        assert task.done()
        loop.post(lane, 0, lambda: seen.append("never"))
        await asyncio.sleep(20)

    run(main, loop)
    assert seen == ["cancelled", "ended", "buried True"]


def test_a_lane_that_refuses_to_end_is_reported() -> None:
    loop, lane = loop_of(), Lane("lane")
    is_free = False

    async def immortal() -> None:
        while not is_free:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                continue

    context = contextvars.copy_context()
    context.run(LANE.set, lane)
    task = loop.create_task(immortal(), context=context)
    loop.run(lambda: True, calls_max=10)
    verdicts: list[bool] = []
    loop.urge(lambda: verdicts.append(loop.bury(lane)))
    loop.run_urgent()
    assert verdicts == [False]
    is_free, lane.is_dead = True, False
    loop.urge(lambda: verdicts.append(loop.bury(lane)))
    loop.run_urgent()
    assert task.done()


def test_what_nobody_can_catch_is_a_problem() -> None:
    loop = loop_of()

    async def main() -> None:
        loop.call_exception_handler({"message": "lost", "exception": ValueError("x")})

    run(main, loop)
    assert loop.problems == ["lost: ValueError('x')"]


def test_a_callback_that_raises_ends_the_simulation() -> None:
    loop = loop_of()
    loop.call_soon(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda: False, calls_max=10)


def test_what_goes_round_in_circles_is_ended() -> None:
    loop = loop_of()

    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    assert not loop.run(lambda: False, calls_max=100)
    assert loop.calls == 100
    loop.close()
    assert loop.is_closed()


def test_nothing_of_a_world_is_kept() -> None:
    """Contexts of attempts are not tracked by the garbage collector, so they must be part of no cycle."""
    for seed in (0, 1):
        simulate(seed)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is World]
