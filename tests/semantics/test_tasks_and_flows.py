"""Rows 36 and 37: tasks, and flows of steps one after the other."""

import functools
import operator

import pytest

from holdfast import Flow, Retry, Task, task
from holdfast.core.entries import StepCompleted
from holdfast.errors import DefinitionError, UsageError
from tests.semantics.places import Place, entries


@task
def inc(x: int) -> int:
    """Add one.

    More about it.
    """
    return x + 1


@task("double it")
async def double(x: int) -> int:
    return x * 2


class Scale:
    """A callable object."""

    def __init__(self, factor: int) -> None:
        self._factor = factor

    def __call__(self, x: int) -> int:
        return x * self._factor

    def halve(self, x: int) -> int:
        return x // 2

    @staticmethod
    def negate(x: int) -> int:
        return -x


class ScaleAsync:
    async def __call__(self, x: int) -> int:
        return x * 3


def add(x: int, y: int) -> int:
    return x + y


def nothing_asked() -> str:
    return "nothing asked"


def anything(*values: int) -> list[int]:
    return list(values)


def test_a_task_is_callable_as_the_function_was() -> None:
    """Row 36."""
    assert inc(2) == 3
    assert isinstance(inc, Task)
    assert (inc.name, inc.__name__, inc.description) == ("inc", "inc", "Add one.")


def test_a_task_has_the_options_it_was_given() -> None:
    """Row 36."""
    policy = Retry(max_retries=1)
    made = task("named", retry=policy, timeout="2s", tags=["a"], priority=1, description="what")(add)
    assert (made.name, made.retry, made.timeout_ms) == ("named", (policy,), 2_000)
    assert (made.tags, made.priority, made.description) == (("a",), 1, "what")


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 0},
        {"priority": 6},
        {"tags": ["x"] * 21},
        {"tags": ["x" * 65]},
        {"tags": [""]},
        {"retries": 1, "retry": Retry()},
        {"retries": -1},
        {"timeout": -1},
        {"timeout": "soon"},
    ],
    ids=str,
)
def test_an_option_out_of_bounds_is_refused_where_the_task_is_made(options: dict[str, object]) -> None:
    """Row 36."""
    with pytest.raises(UsageError):
        task(**options)(add)  # type: ignore[call-overload] - what goes wrong in the field


async def test_the_output_of_a_step_is_the_argument_of_the_next(place: Place) -> None:
    """Row 37."""
    flow = Flow("math").then(inc).then(double).then(str)
    async with place.engine(Flow("math").then(inc).then(double)) as engine:
        handle = await engine.start("math", 4)
        assert await handle.result() == 10
        steps = [entry for entry in await entries(handle) if isinstance(entry, StepCompleted)]
        assert [(step.step, step.output) for step in steps] == [
            ("inc", b"json.1:5"),
            ("double it", b"json.1:10"),
        ]
    assert flow.name == "math"


@pytest.mark.parametrize(
    ("f", "value", "output"),
    [
        (inc, 3, 4),
        (double, 3, 6),
        (Scale(5), 3, 15),
        (ScaleAsync(), 3, 9),
        (Scale(5).halve, 8, 4),
        (Scale.negate, 3, -3),
        (functools.partial(add, 10), 3, 13),
        (functools.partial(add, y=20), 3, 23),
        (len, [1, 2, 3], 3),
        (str.upper, "abc", "ABC"),
        (operator.itemgetter("a"), {"a": 7}, 7),
        (str, 12, "12"),
        (int, "12", 12),
        (list, "ab", ["a", "b"]),
        (sorted, [2, 1], [1, 2]),
        (nothing_asked, 3, "nothing asked"),
        (anything, 3, [3]),
    ],
)
async def test_any_callable_is_a_step(place: Place, f: object, value: object, output: object) -> None:
    """Row 37."""
    assert await place.run(Flow("any").then(f), value) == output  # type: ignore[arg-type] - any callable


async def test_the_same_task_twice_makes_two_steps(place: Place) -> None:
    """Row 37."""
    flow = Flow("math").then(inc).then(inc).then(inc)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 0)
        assert await handle.result() == 3
        steps = [entry.step for entry in await entries(handle) if isinstance(entry, StepCompleted)]
        assert steps == ["inc", "inc_2", "inc_3"]


async def test_a_step_may_be_named(place: Place) -> None:
    """Row 37."""
    flow = Flow("math").then(inc, name="first").then(inc, name="second")
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 0)
        await handle.result()
        steps = [entry.step for entry in await entries(handle) if isinstance(entry, StepCompleted)]
        assert steps == ["first", "second"]


async def test_a_lambda_needs_a_name_where_runs_are_durable(place: Place) -> None:
    """Row 37."""
    nameless = Flow("math").then(lambda x: x + 1).then(lambda x: x * 2, name="twice").then(lambda x: -x)
    if place.kind == "memory":
        assert await place.run(nameless, 3) == -8
        return
    with pytest.raises(DefinitionError) as caught:
        place.engine(nameless)
    assert [problem.code for problem in caught.value.problems] == ["nameless", "nameless"]
    named = Flow("math").then(lambda x: x + 1, name="inc").then(lambda x: x * 2, name="twice")
    assert await place.run(named, 3) == 8


async def test_a_flow_says_all_its_problems_at_once(place: Place) -> None:
    """Row 44."""
    flow = Flow("bad").then(inc, name="one").then(double, name="one").then("no function")  # type: ignore[arg-type]
    flow.fork().branch(inc, name="x").branch(inc, name="x").join(dict)
    with pytest.raises(DefinitionError) as caught:
        place.engine(flow)
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"duplicate_step", "not_callable", "duplicate_branch"}


async def test_a_function_that_needs_two_arguments_is_no_step(place: Place) -> None:
    """Row 37."""
    with pytest.raises(DefinitionError, match=r"step 'add'.*passes one argument"):
        place.engine(Flow("math").then(add))


async def test_an_empty_flow_is_refused(place: Place) -> None:
    """Row 44."""
    with pytest.raises(DefinitionError, match="at least one step"):
        place.engine(Flow("empty"))
