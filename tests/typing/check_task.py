"""What a type checker makes of the public names; mypy reads this file, nothing runs it.

A wrong use carries an ignore, and an ignore without use is an error: so each line says that the checker
does object.
"""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, assert_type

from holdfast import Edge, Flow, Join, Retry, Step, Task, TaskContext, Workflow, get_task_context, task
from holdfast.definition.flow import Fork


@task
def bare(number: int, *, by: str = "x") -> float:
    return number / len(by)


@task("increment", retries=3, timeout="30s", tags=["math"], priority=1, description="Add one.")
def named(number: int, /) -> int:
    return number + 1


@task(retry=[Retry(error_equals=("timeout", ValueError))], timeout=timedelta(seconds=3))
async def later(number: int, *numbers: int, **names: str) -> list[int]:
    return [number, *numbers, len(names)]


@task()
def nothing() -> None: ...


def plain(number: int, /) -> str:
    return str(number)


class Adder:
    def __call__(self, number: int, /) -> int:
        return number

    def add(self, number: int, /) -> bool:
        return number > 0


# A task is the function it was made of: parameters by name and kind, and what it returns.

assert_type(bare(1), float)
assert_type(bare(number=1, by="y"), float)
assert_type(named(1), int)
waiting: Coroutine[Any, Any, list[int]] = later(1, 2, a="b")
assert_type(nothing(), None)
assert_type(task(plain), Task[[int], str])
assert_type(task(Adder()), Task[[int], int])
assert_type(task(Adder().add), Task[[int], bool])
assert_type(task("plain")(plain), Task[[int], str])
assert_type(task(plain)(5), str)
assert_type(bare.fn(1), float)
assert_type(bare.name, str)
assert_type(bare.retry, tuple[Retry, ...])
assert_type(bare.timeout_ms, int | None)

same: Callable[[int], str] = task(plain)


async def use() -> None:
    assert_type(await later(1, 2, a="b"), list[int])
    later()  # type: ignore[call-arg, unused-coroutine]


bare("1")  # type: ignore[arg-type]
bare(1, "y")  # type: ignore[call-arg]
bare(1, by=2)  # type: ignore[arg-type]
named(number=1)  # type: ignore[call-arg]
nothing(1)  # type: ignore[call-arg]
other: Callable[[str], str] = task(plain)  # type: ignore[assignment]

# Options are checked where they are written.

task("name", retries="3")  # type: ignore[call-overload]
task("name", retry=3)  # type: ignore[call-overload]
task("name", timeout=[])  # type: ignore[call-overload]
task("name", tries=3)  # type: ignore[call-overload]
task(plain, retries=3)  # type: ignore[call-overload]
task(5)  # type: ignore[call-overload]
Retry(jitter_strategy="full")  # type: ignore[arg-type]
Retry(error_equals=[ValueError])  # type: ignore[arg-type]
Retry(("all",))  # type: ignore[call-arg]

# Flows take any callable and go on as what they are.

flow = Flow("order", metadata={"team": "sales"})
assert_type(flow.then(bare), Flow)
assert_type(flow.then(plain, name="p").then(lambda number: number), Flow)
assert_type(flow.fork(), Fork)
assert_type(flow.fork().branch(bare, later, name="left").branch(Adder()), Fork)
assert_type(flow.fork().branch(bare).join(plain), Flow)
assert_type(flow.build(durable=True), Workflow)
flow.then(5)  # type: ignore[arg-type]
flow.build(True)  # type: ignore[call-arg]

assert_type(Workflow("w", [Step("a", task="a", edges=(Edge("a"),))], tasks=[bare, later]), Workflow)
assert_type(Join(("left", "right")).branches, tuple[str, ...])
Workflow("w", [], tasks=[plain])  # type: ignore[list-item]
Step("a", "dream")  # type: ignore[arg-type]

context = get_task_context()
assert_type(context, TaskContext | None)
if context is not None:
    assert_type(context.idempotency_key, str)
