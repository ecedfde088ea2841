"""Threads that can be abandoned, and the heart (semantics row 24, invariants 17 and 40)."""

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from holdfast.runtime.executors import DaemonThreads, caught
from holdfast.runtime.leases import ThreadHeart

T = TypeVar("T")
PATIENCE_S = 10
"""Of a test for what must happen; far beyond what it takes."""
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def with_threads(threads_max: int, body: Callable[[DaemonThreads], Coroutine[None, None, T]]) -> T:
    async def main() -> T:
        threads = DaemonThreads(threads_max, name="body")
        try:
            return await body(threads)
        finally:
            threads.close()

    return asyncio.run(main())


def wait_until_idle(threads: DaemonThreads) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not threads._idle:
        assert time.monotonic() < deadline
        time.sleep(0)


@pytest.mark.parametrize("hands_over", [True, False])
def test_a_busy_loop_lets_a_thread_begin_before_it_goes_on(*, hands_over: bool) -> None:
    """Nobody takes the interpreter's lock by force here: the loop spins, and would keep it."""

    async def main() -> bool:
        threads = DaemonThreads(1, name="body", hands_over=hands_over)
        try:
            await threads.call(lambda: None)
            wait_until_idle(threads)
            begun = threading.Event()
            call = threads.call(begun.set)
            for _ in range(1_000_000):
                pass
            has_begun = begun.is_set()
            await call
            return has_begun
        finally:
            threads.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE_S)
    try:
        assert asyncio.run(main()) is hands_over
    finally:
        sys.setswitchinterval(interval)


class Stuck:
    """A function that hangs until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.let_go.wait(PATIENCE_S)
        return "late"

    def wait(self) -> None:
        assert self.begun.wait(PATIENCE_S)

    def end(self) -> None:
        """Let the function return, and wait for the end of its thread."""
        self.let_go.set()
        assert self.thread is not None
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def test_a_call_gives_its_result() -> None:
    async def body(threads: DaemonThreads) -> None:
        assert await threads.call(lambda: 5) == 5

    with_threads(1, body)


def test_a_call_gives_its_exception() -> None:
    error = ValueError("no")

    def fail() -> None:
        raise error

    async def body(threads: DaemonThreads) -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await threads.call(fail)
        assert caught.value is error
        assert await threads.call(lambda: 5) == 5, "the thread goes on"

    with_threads(1, body)


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt])
def test_an_exception_that_a_future_cannot_carry_becomes_a_runtime_error(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    async def body(threads: DaemonThreads) -> None:
        with pytest.raises(RuntimeError, match=rf"{kind.__name__}\('x'\)"):
            await threads.call(fail)

    with_threads(1, body)


def test_a_call_sees_the_context_of_its_caller_and_changes_only_its_own() -> None:
    def look() -> str:
        seen = COLOUR.get()
        COLOUR.set("red")
        return seen

    async def body(threads: DaemonThreads) -> None:
        COLOUR.set("blue")
        assert [await threads.call(look), await threads.call(look)] == ["blue", "blue"]
        assert COLOUR.get() == "blue"

    with_threads(1, body)


def test_calls_run_in_daemon_threads_of_that_name() -> None:
    async def body(threads: DaemonThreads) -> None:
        thread = await threads.call(threading.current_thread)
        assert thread is not threading.current_thread()
        assert (thread.daemon, thread.name) == (True, "body")

    with_threads(1, body)


def test_calls_run_in_order_where_there_is_one_thread() -> None:
    seen: list[int] = []

    async def body(threads: DaemonThreads) -> None:
        calls = [threads.call(lambda number=number: seen.append(number)) for number in range(20)]  # type: ignore[misc]
        await asyncio.gather(*calls)
        assert seen == list(range(20))
        assert len({await threads.call(threading.get_ident) for _ in range(5)}) == 1

    with_threads(1, body)


def test_no_more_threads_run_than_are_allowed() -> None:
    stuck = [Stuck() for _ in range(5)]

    async def body(threads: DaemonThreads) -> None:
        calls = [threads.call(each) for each in stuck]
        for each in stuck[:2]:
            each.wait()
        assert [each.begun.is_set() for each in stuck] == [True, True, False, False, False]
        for each in stuck:
            each.let_go.set()
        assert await asyncio.gather(*calls) == ["late"] * 5
        assert len({each.thread for each in stuck}) <= 2

    with_threads(2, body)


def test_a_cancelled_call_is_abandoned_and_its_thread_replaced() -> None:
    """Row 24."""
    stuck = Stuck()

    async def body(threads: DaemonThreads) -> None:
        call = threads.call(stuck)
        stuck.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        thread = await threads.call(threading.current_thread)
        assert thread is not stuck.thread
        stuck.end()
        assert call.cancelled(), "its late result is refused (invariant 17)"
        assert await threads.call(threading.current_thread) is thread, "the bound is kept"

    with_threads(1, body)


def test_a_call_that_waits_behind_an_abandoned_one_gets_the_new_thread() -> None:
    stuck = Stuck()

    async def body(threads: DaemonThreads) -> None:
        first, second = threads.call(stuck), threads.call(lambda: 5)
        stuck.wait()
        first.cancel()
        assert await second == 5
        stuck.end()

    with_threads(1, body)


def test_a_call_that_is_cancelled_before_it_runs_never_runs() -> None:
    stuck, never = Stuck(), Stuck()

    async def body(threads: DaemonThreads) -> None:
        first, second = threads.call(stuck), threads.call(never)
        stuck.wait()
        second.cancel()
        await asyncio.sleep(0)
        stuck.let_go.set()
        assert await first == "late"
        assert await threads.call(lambda: 5) == 5
        assert not never.begun.is_set()

    with_threads(1, body)


def test_a_call_that_is_cancelled_as_it_ends_leaves_the_bound_as_it_was() -> None:
    stuck, others = Stuck(), [Stuck(), Stuck()]

    async def body(threads: DaemonThreads) -> None:
        call = threads.call(stuck)
        stuck.wait()
        call.cancel()
        stuck.let_go.set()
        wait_until_idle(threads)
        await asyncio.sleep(0)
        calls = [threads.call(each) for each in others]
        others[0].wait()
        second_begins = others[1].begun.wait(0.005)
        for each in others:
            each.let_go.set()
        await asyncio.gather(*calls)
        assert not second_begins

    with_threads(1, body)


def test_closing_ends_the_idle_threads() -> None:
    async def body(threads: DaemonThreads) -> threading.Thread:
        return await threads.call(threading.current_thread)

    thread = with_threads(1, body)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_closing_lets_running_and_waiting_calls_end() -> None:
    stuck = Stuck()

    async def body(threads: DaemonThreads) -> None:
        first, second = threads.call(stuck), threads.call(lambda: 5)
        stuck.wait()
        threads.close()
        stuck.let_go.set()
        assert (await first, await second) == ("late", 5)

    with_threads(1, body)


def test_closing_twice_is_fine() -> None:
    async def body(threads: DaemonThreads) -> None:
        threads.close()
        threads.close()

    with_threads(1, body)


def test_no_call_is_taken_after_closing() -> None:
    async def body(threads: DaemonThreads) -> None:
        threads.close()
        with pytest.raises(RuntimeError):
            await threads.call(lambda: 5)

    with_threads(1, body)


def test_a_call_may_outlive_its_loop() -> None:
    stuck = Stuck()

    async def body(threads: DaemonThreads) -> None:
        threads.call(stuck)
        stuck.wait()

    with_threads(1, body)
    stuck.end()


def test_whatever_a_function_raises_may_be_caught() -> None:
    def leave() -> int:
        raise SystemExit(3)

    assert caught(lambda: 5, repr) == 5
    assert caught(leave, repr) == "SystemExit(3)"


# the heart


class FixedClock:
    def monotonic_ms(self) -> float:
        return 1_234.5

    def wall_ms(self) -> int:
        raise AssertionError("a heart has no use for it")


class Beats:
    """Counts beats, and answers each with the next of its waits, the last one for ever."""

    def __init__(self, *waits_ms: float) -> None:
        self.waits_ms = list(waits_ms)
        self.told: list[float] = []
        self.threads: set[threading.Thread] = set()
        self.beaten = threading.Semaphore(0)

    def __call__(self, now_ms: float) -> float:
        self.told.append(now_ms)
        self.threads.add(threading.current_thread())
        wait_ms = self.waits_ms.pop(0) if len(self.waits_ms) > 1 else self.waits_ms[0]
        self.beaten.release()
        return wait_ms

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.beaten.acquire(timeout=PATIENCE_S)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_a_heart_beats_over_and_over_and_says_when() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(0)
    heart.start(beats)
    beats.wait(3)
    heart.stop()
    assert beats.told[:3] == [1_234.5] * 3
    beats.end()


def test_a_heart_beats_in_a_daemon_thread_of_its_own() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(0)
    heart.start(beats)
    beats.wait(2)
    heart.stop()
    (thread,) = beats.threads
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_a_negative_wait_ends_the_heart() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(0, 0, -1)
    heart.start(beats)
    beats.wait(3)
    beats.end()
    assert len(beats.told) == 3
    heart.stop()


def test_stopping_does_not_sit_out_the_wait() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(3_600_000)
    heart.start(beats)
    beats.wait(1)
    heart.stop()
    beats.end()
    assert len(beats.told) == 1


def test_no_beat_begins_after_a_stop() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(0)
    heart.start(beats)
    beats.wait(1)
    heart.stop()
    count = len(beats.told)
    beats.end()
    assert len(beats.told) <= count + 1  # one may have begun before


def test_stopping_is_idempotent_also_before_the_start() -> None:
    heart = ThreadHeart(FixedClock())
    heart.stop()
    heart.start(Beats(-1))
    heart.stop()
    heart.stop()


def test_a_beat_may_stop_its_own_heart() -> None:
    heart, beats = ThreadHeart(FixedClock()), Beats(0)

    def beat(now_ms: float) -> float:
        heart.stop()
        return beats(now_ms)

    heart.start(beat)
    beats.wait(1)
    beats.end()
    assert len(beats.told) == 1


def test_a_heart_may_be_started_again() -> None:
    heart, first, second = ThreadHeart(FixedClock()), Beats(0), Beats(0)
    heart.start(first)
    first.wait(1)
    heart.stop()
    heart.start(second)
    second.wait(1)
    heart.stop()
    assert first.threads.isdisjoint(second.threads)
