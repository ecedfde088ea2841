"""Bodies that tests run in processes, where they are found by the name of this module and their own."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from holdfast import WorkflowError, get_task_context, task

PATIENCE_S = 60
"""After that a body that should have been killed ends by itself."""


@dataclasses.dataclass
class Order:
    id: int
    items: list[str]


class Adder:
    def add(self, number: int) -> int:
        return number + 1


METHOD = Adder().add


class PaymentError(Exception): ...


class CardError(PaymentError): ...


def pid() -> int:
    return os.getpid()


def inc(order: Order) -> Order:
    return dataclasses.replace(order, id=order.id + 1)


def first_item(order: Order) -> object:
    return {"first": order.items[0]}


def call_bank(order: Order) -> None:
    raise OSError(f"no line to the bank of {order.id}")


def decline(order: Order) -> None:
    try:
        call_bank(order)
    except OSError as cause:
        error = CardError("declined: \ud800")
        error.add_note("of order 42")
        raise error from cause


def refuse(order: Order) -> None:
    raise WorkflowError("no", type="card", details={"code": order.id})


def unfit(order: Order) -> object:
    return {"items": {order.id: object()}}


def leave(how: str) -> None:
    """End the process in the middle of the body."""
    if how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        sys.exit("so long")
    os._exit(3)


def leave_once(directory: str) -> int:
    """End the first process, and tell the pid of the second."""
    if not Path(directory, "first").exists():
        tell(directory, "first")
        os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid()


def hang(directory: str) -> str:
    """Tell the pid, and have an effect when `go` is there."""
    tell(directory, "begun")
    give_up_at = time.monotonic() + PATIENCE_S
    while not Path(directory, "go").exists() and time.monotonic() < give_up_at:
        time.sleep(0.002)
    tell(directory, "effect")
    return "late"


def hang_once(directory: str) -> str:
    return "second" if Path(directory, "begun").exists() else hang(directory)


def hang_with_others(directory: str) -> str:
    """Start a process of its own, and hang."""
    with subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({PATIENCE_S})"]) as other:
        tell(directory, "other", other.pid)
        return hang(directory)


def look() -> dict[str, object]:
    context = get_task_context()
    assert context is not None
    names = ("run_id", "workflow", "step", "branch", "visit", "attempt", "incarnation", "idempotency_key")
    facts: dict[str, object] = {name: getattr(context, name) for name in names}
    return facts | {"metadata": dict(context.metadata), "cancelled": context.cancelled}


def has_context() -> bool:
    return get_task_context() is not None


def speak() -> str:
    """Use all that a process shares with others for something else."""
    os.write(1, b"to the descriptor\n")
    print("to the stream")  # noqa: T201 - that is the test
    os.write(2, b"x" * 200_000)
    subprocess.run([sys.executable, "-c", "print('from a process of its own')"], check=True)
    return sys.stdin.read()


def never_ready(_: object) -> None:
    time.sleep(PATIENCE_S)


def busy(count: int) -> int:
    """Hold the interpreter lock."""
    total = 0
    for number in range(count):
        total += number
    return total


def tell(directory: str, name: str, number: int | None = None) -> None:
    """Write a number, by default the pid, in one go."""
    path = Path(directory, name)
    path.with_suffix(".new").write_text(str(os.getpid() if number is None else number))
    path.with_suffix(".new").rename(path)


def told(directory: Path, name: str) -> int | None:
    path = directory / name
    return int(path.read_text()) if path.exists() else None


def is_gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@task(executor="process")
def decorated(number: int) -> int:
    return number + os.getpid()


@task
def replaced(number: int) -> int:
    return number


original = replaced.fn


def replaced(number: int) -> int:  # type: ignore[no-redef] - a name that leads to another function
    return -number
