"""Where blocking functions run: threads of our own, which can be abandoned and never hold up an exit."""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
F = TypeVar("F")
HAND_OVER_S = 0.005
"""How long a call is waited for to begin; a thread that is idle takes some 0.05 ms."""


def caught(fn: Callable[[], T], otherwise: Callable[[BaseException], F]) -> T | F:
    """What `fn` gives, or what `otherwise` makes of the error that it raised, whatever that is."""
    try:
        return fn()
    except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
        return otherwise(error)


class DaemonThreads:
    """`Threads` with up to `threads_max` daemon threads, started when needed.

    The standard pool joins its threads at exit and cannot replace one that hangs. Here a call whose future
    is cancelled is abandoned: its thread no longer counts, another takes its place, and it ends after the
    call.
    """

    def __init__(self, threads_max: int, *, name: str, hands_over: bool = False) -> None:
        """No thread is started before it is needed.

        Args:
            threads_max: The bound.
            name: Prefix of the threads' names.
            hands_over: Whether `call` lets an idle thread begin before it returns. Else a busy loop keeps the
                interpreter's lock, and the thread begins when that is taken by force, 5 ms later.
        """
        self._threads_max = threads_max
        self._name = name
        self._hands_over = hands_over
        self._lock = threading.Condition()
        self._calls: deque[_Call[Any]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def call(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        """See `Threads`."""
        if self._closed:
            raise RuntimeError("these threads are closed")
        loop = asyncio.get_running_loop()
        call = _Call(fn, loop)
        call.future.add_done_callback(lambda future: self._abandon(call, future))
        with self._lock:
            self._calls.append(call)
            begins = self._idle >= len(self._calls)
            if begins:
                self._lock.notify()
            elif self._threads < self._threads_max:
                self._start()
        if begins and self._hands_over:
            call.begun.acquire(timeout=HAND_OVER_S)
        return call.future

    def close(self) -> None:
        """See `Threads`."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call.run()
            with self._lock:
                call.is_done = True
                if call.is_abandoned:
                    return

    def _next(self) -> "_Call[Any] | None":
        with self._lock:
            while not self._calls:
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._lock.wait()
                self._idle -= 1
            call = self._calls.popleft()
            call.is_running = True
            call.begun.release()
            return call

    def _abandon(self, call: "_Call[Any]", future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            return
        with self._lock:
            if not call.is_running:
                with contextlib.suppress(ValueError):
                    self._calls.remove(call)
            elif not call.is_done:
                call.is_abandoned = True
                self._threads -= 1
                if self._calls:
                    self._start()


class _Call(Generic[T]):
    """One function to call, in the context of its caller, and the future for its outcome."""

    def __init__(self, fn: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._fn = fn
        self._loop = loop
        self._context = contextvars.copy_context()
        self.future: asyncio.Future[T] = loop.create_future()
        self.begun = threading.Lock()
        self.begun.acquire()
        self.is_running = False
        self.is_done = False
        self.is_abandoned = False

    def run(self) -> None:
        try:
            result = self._context.run(self._fn)
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            self._report(self._fail, error)
        else:
            self._report(self._succeed, result)

    def _report(self, tell: Callable[[Any], None], outcome: object) -> None:
        # The loop may be closed by now: then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(tell, outcome)

    def _succeed(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if self.future.done():
            return
        # A future cannot hold StopIteration, and must not end the loop with SystemExit.
        if isinstance(error, StopIteration | KeyboardInterrupt | SystemExit):
            error = RuntimeError(f"a function in a thread raised {error!r}")
        self.future.set_exception(error)
