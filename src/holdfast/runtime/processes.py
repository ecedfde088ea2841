"""Where bodies run that want a process of their own: one that can be killed, and has its own interpreter lock.

A few processes are kept and get one body at a time. Each body has a thread of ours that talks with its process
over a pipe and sleeps meanwhile; so a loop of any kind only sees a future, and the queue and the bound are
those of the threads. Why this is no library's: docs/decisions/0013-processes-of-our-own.md.
"""

import asyncio
import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from holdfast.core.entries import Failure
from holdfast.runtime.bindings import Callee
from holdfast.runtime.context import TaskContext
from holdfast.runtime.executors import DaemonThreads
from holdfast.runtime.serving import READY, STARTING, decode_answer, encode_call, serve

PROCESSES_MAX = os.cpu_count() or 1
"""Bodies that run in processes side by side: more of them than processors only wait for each other."""
START_S = 60.0
"""From its start until a process asks for a call, or from there until the task's module is imported."""
STARTS_MAX = 3
"""Processes that may end before the body begins (the system took them) until that counts as its failure."""
END_S = 1.0
"""For a process that has closed its pipe to end, so that its own exit status is seen."""
PROCESS_DIED = "process_died"


class Processes:
    """Up to `processes_max` processes of this machine, started when needed and kept for later bodies."""

    def __init__(self, processes_max: int = PROCESSES_MAX) -> None:
        """Args: the bound. Nothing is started."""
        self._processes_max = processes_max
        self._threads = DaemonThreads(processes_max, name="holdfast-process")
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._living: set[_Process] = set()
        self._closed = False

    def call(
        self, step: Callee, payload: bytes, context: TaskContext | None, begun: Callable[[], object]
    ) -> asyncio.Future[bytes | Failure]:
        """Call the task of a step in a process.

        Cancelling the returned future kills the process, with all that the body has started there.

        Args:
            step: One with `importable`.
            payload: The argument.
            context: What `get_task_context()` gives there.
            begun: Called in some thread when the body begins.

        Returns:
            A future of the running loop: the payload of the result, or a failure, which is of type
            `process_died` if the process ended before the body did.

        Raises:
            CodecError: The metadata of the workflow cannot be encoded; nothing was called.
            RuntimeError: Closed; nothing was called.
        """
        if step.importable is None:
            raise RuntimeError(f"step {step.name!r} does not run in a process")
        talk = _Talk(encode_call(step, step.importable, payload, context), begun)
        future = self._threads.call(partial(self._run, talk, step.name))
        future.add_done_callback(talk.done)
        return future

    def close(self) -> None:
        """Kill all processes and take no further call. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            living = list(self._living)
        self._threads.close()
        for process in living:
            process.kill()
        for process in idle:
            self._bury(process)
        atexit.unregister(self.close)

    def _run(self, talk: "_Talk", step: str) -> bytes | Failure:
        end = ""
        for _ in range(STARTS_MAX):
            process = self._take()
            if not talk.give_to(process):
                self._put_back(process)
                return _died(step, "nobody waits for the body any more")
            try:
                answer = process.ask(talk.call, talk.begin)
            except TimeoutError:
                talk.take_back()
                self._bury(process)
                return _died(step, f"the process was not ready for the body after {START_S:g} s")
            except _ProcessDiedError:
                talk.take_back()
                end = self._bury(process, END_S)
                if talk.has_begun or talk.is_over:
                    return _died(step, f"the process of the body {end}")
                continue
            if talk.take_back():
                self._put_back(process)
            else:
                self._bury(process)
            return decode_answer(answer)
        return _died(step, f"{STARTS_MAX} processes ended before the body began; the last one {end}")

    def _take(self) -> "_Process":
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("these processes are closed")
                process = self._idle.pop() if self._idle else None
            if process is None:
                return self._start()
            if process.is_alive():
                return process
            self._bury(process)

    def _start(self) -> "_Process":
        process = _Process()
        with self._lock:
            if not self._living:
                atexit.register(self.close)  # before the one of multiprocessing, which waits for them
            self._living.add(process)
            if self._closed:
                process.kill()
        return process

    def _put_back(self, process: "_Process") -> None:
        with self._lock:
            # One that was started for a call which was cancelled meanwhile may be one too many.
            if not self._closed and len(self._living) <= self._processes_max:
                self._idle.append(process)
                return
        self._bury(process)

    def _bury(self, process: "_Process", patience_s: float = 0.0) -> str:
        with self._lock:
            self._living.discard(process)
        return process.bury(patience_s)


class _Talk:
    """One call on its way: which process has it, and whether anyone still waits for it."""

    def __init__(self, call: bytes, begun: Callable[[], object]) -> None:
        self.call = call
        self.has_begun = False
        self.is_over = False
        self._begun = begun
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def give_to(self, process: "_Process") -> bool:
        """False if nobody waits any more."""
        with self._lock:
            self._process = None if self.is_over else process
            return not self.is_over

    def take_back(self) -> bool:
        """The process has no part in this any more; False if it was killed."""
        with self._lock:
            self._process = None
            return not self.is_over

    def begin(self) -> None:
        self.has_begun = True
        self._begun()

    def done(self, future: "asyncio.Future[bytes | Failure]") -> None:
        """Kill the process if the call was cancelled."""
        if not future.cancelled():
            return
        with self._lock:
            self.is_over = True
            if self._process is not None:
                self._process.kill()


class _Process:
    """One process and our end of its pipe; one thread at a time talks with it, any may kill it."""

    def __init__(self) -> None:
        # Spawned: a forked one would inherit locks that other threads hold, and the lock on the database file.
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs,), name=STARTING, daemon=False)
        self._process.start()
        theirs.close()
        self._is_new = True
        self._lock = threading.Lock()
        self._may_kill = True

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, call: bytes, begun: Callable[[], object]) -> bytes:
        """The answer to a call.

        Raises:
            _ProcessDiedError: It ended.
            TimeoutError: It was not ready in time.
        """
        try:
            if self._is_new:
                self._hear()
                self._is_new = False
            self._pipe.send_bytes(call)
            answer = self._hear()
            if answer != READY:
                return answer
            begun()
            return self._pipe.recv_bytes()
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            raise _ProcessDiedError from error

    def _hear(self) -> bytes:
        if not self._pipe.poll(START_S):
            raise TimeoutError
        return self._pipe.recv_bytes()

    def kill(self) -> None:
        """End it now, and what it has started. Nothing once it is being buried: its id may be another's."""
        with self._lock:
            if self._may_kill and self._process.pid is not None and self._process.is_alive():
                for kill in (os.killpg, os.kill):  # the group is there when the process has come to it
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        kill(self._process.pid, signal.SIGKILL)

    def bury(self, patience_s: float) -> str:
        """Let it end by itself for so long, or kill it, and tell how it ended."""
        self._process.join(patience_s)
        self.kill()
        with self._lock:
            self._may_kill = False
        self._process.join()
        code = self._process.exitcode or 0
        self._process.close()
        self._pipe.close()
        return f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit status {code}"


class _ProcessDiedError(Exception):
    """A process has ended that should have answered."""


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _died(step: str, message: str) -> Failure:
    return Failure(PROCESS_DIED, message, (PROCESS_DIED,), step=step)
