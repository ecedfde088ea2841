"""Who may drive a SQLite file, and when outsiders may write to it.

`<db>-owner`: held by `flock` for the life of the one worker process. The lock *is* the lease: the kernel drops
it when the process dies, so a new owner knows that the old one is dead. `<db>-gate`: outside writers hold it
shared for their short transactions, the owner holds it exclusively while it copies the write-ahead log back.
That keeps a race between that copy and other writers, which SQLite had before 3.51.3
(https://sqlite.org/wal.html, "the WAL-reset bug"), out of reach.
"""

import contextlib
import fcntl
import os
import socket
import weakref
from collections.abc import Generator

import msgspec

from holdfast.errors import StoreOpenError, StoreOwnedError


class Owner(msgspec.Struct, frozen=True):
    """Who holds a file: what `<db>-owner` contains; it is empty where nobody does."""

    pid: int
    host: str

    def __str__(self) -> str:
        """As the error names it."""
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """The one that this runs in."""
    return Owner(os.getpid(), socket.gethostname())


def owner_of(path: str) -> Owner | None:
    """Who holds the file or has died while holding it, as it says itself; None where nobody does.

    A look at the text only: probing the lock would take it, and could keep a worker from starting.
    """
    try:
        with open(f"{path}-owner", "rb") as file:  # noqa: PTH123 - beside os.open
            return msgspec.json.decode(file.read(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None


def is_alive(owner: Owner) -> bool:
    """Whether the process lives, or may: nothing is known of one on another host."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's, but there
    return True


class OwnerLock:
    """The right to drive one file; lost only with the process or by `release`."""

    def __init__(self, path: str) -> None:
        """Args: the database file."""
        self._path = path
        self._fd: int | None = None
        # A forked child shares the lock and would keep it alive after its parent's death. Closing the child's
        # descriptor does not unlock the parent's.
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(after_in_child=lambda: _call(forget()))

    def acquire(self) -> bool:
        """Take the lock, or return False where someone else, in this process or another, has it."""
        fd = _open(self._path, "-owner")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(this_process()), 0)
        self._fd = fd
        return True

    def refusal(self) -> StoreOwnedError:
        """The error that names the owner."""
        owner = owner_of(self._path)
        named = "a process that has not said its name yet" if owner is None else str(owner)
        return StoreOwnedError(path=self._path, owner=named)

    def release(self) -> None:
        """Give the lock back, and take the name off it; idempotent."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            self._forget()

    def _forget(self) -> None:
        """Let go of the descriptor, and leave the name: it is the parent's."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _call(forget: object) -> None:
    if callable(forget):
        forget()


class Gate:
    """The file that outside writers pass."""

    def __init__(self, path: str) -> None:
        """Args: the database file."""
        self._path = path
        self._fd: int | None = None

    @contextlib.contextmanager
    def passing(self) -> Generator[None]:
        """Hold the gate as one outside writer of several; waits while the owner has closed it."""
        fd = self._descriptor()
        fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Hold the gate as the only one; waits for its turn. For opening, when the file may be new."""
        fd = self._descriptor()
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def closed(self) -> Generator[bool]:
        """Keep outside writers out if none is inside; yields whether that worked."""
        fd = self._descriptor()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _descriptor(self) -> int:
        if self._fd is None:
            self._fd = _open(self._path, "-gate")
        return self._fd


def _open(path: str, suffix: str) -> int:
    try:
        return os.open(path + suffix, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreOpenError(path=path, reason=str(error.strerror)) from error
