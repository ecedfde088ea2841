"""`@task` and its bounds (semantics row 36)."""

import functools
from collections.abc import Callable, Sequence

import pytest

from holdfast.definition.policies import Retry
from holdfast.definition.task import Executor, Task, as_task, default_name, task
from holdfast.errors import UsageError


def inc(number: int) -> int:
    """Add one.

    And say so at length.
    """
    return number + 1


class Adder:
    """Adds."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, number: int) -> int:
        return number + self.amount

    def add(self, number: int) -> int:
        return number + self.amount


def make(name: str | None = None, **options: object) -> Task[..., int]:
    return task(name, **options)(inc)  # type: ignore[call-overload, no-any-return]


def test_a_bare_decorator_names_the_task_after_its_function() -> None:
    made = task(inc)
    assert (made.name, made.fn, made.description) == ("inc", inc, "Add one.")
    assert (made.retry, made.timeout_ms, made.tags, made.priority) == ((), None, (), 3)


def test_a_decorator_without_options_does_the_same() -> None:
    assert make().name == "inc"


def test_a_name_is_given_in_place() -> None:
    assert make("increment").name == "increment"


def test_options_are_kept() -> None:
    policies = [Retry(error_equals=("timeout",)), Retry(max_retries=1)]
    made = make("i", retry=policies, timeout="2s", tags=["a", "b"], priority=1, description="x")
    assert (made.retry, made.timeout_ms, made.tags) == (tuple(policies), 2_000, ("a", "b"))
    assert (made.priority, made.description) == (1, "x")


def test_a_single_policy_needs_no_list() -> None:
    assert make(retry=Retry(max_retries=1)).retry == (Retry(max_retries=1),)


def test_retries_are_short_for_a_policy() -> None:
    assert make(retries=3).retry == (Retry(max_retries=3),)
    assert make(retries=0).retry == ()


def test_a_task_is_still_the_function() -> None:
    made = task(inc)
    assert made(1) == 2
    assert made(number=1) == 2
    assert made.__wrapped__ is inc  # type: ignore[attr-defined]
    assert (made.__name__, made.__doc__) == ("inc", inc.__doc__)  # type: ignore[attr-defined]
    assert repr(made) == "<task inc>"


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (inc, "inc"),
        (Adder(1), "Adder"),
        (Adder(1).add, "add"),
        (functools.partial(inc, number=1), "inc"),
        (functools.partial(Adder(1)), "Adder"),
        (len, "len"),
        (str.upper, "upper"),
        (Adder, "Adder"),
        (lambda number: number, "<lambda>"),
    ],
)
def test_any_callable_has_a_name(fn: Callable[..., object], name: str) -> None:
    assert default_name(fn) == name
    assert as_task(fn).name == name
    assert as_task(fn).fn is fn


def test_a_task_is_a_task_already() -> None:
    made = make(retries=2)
    assert as_task(made) is made


def test_a_function_without_a_docstring_has_an_empty_description() -> None:
    def silent() -> None: ...

    assert task(silent).description == ""


def test_an_empty_description_is_kept() -> None:
    assert make(description="").description == ""


def test_a_partial_is_described_by_the_function_it_wraps() -> None:
    assert as_task(functools.partial(inc, 1)).description == "Add one."


@pytest.mark.parametrize(
    "name", ["a", "a" * 255, "é" * 127, "naïve 名前 🙂", "with space", "a/b", "\u00a0"], ids=ascii
)
def test_a_name_is_any_text_of_up_to_255_bytes(name: str) -> None:
    assert make(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 256, "é" * 128, "a\0b", "a\nb", "\x7f", "\x85", "\x9f", "\ud800", "a\udfff"],
    ids=ascii,
)
def test_a_name_out_of_bounds_is_refused(name: str) -> None:
    """Bounds are bytes in UTF-8; control characters (C0, DEL, C1) and lone surrogates are no text."""
    with pytest.raises(UsageError) as caught:
        make(name)
    assert "task name" in caught.value.what
    assert "255 bytes" in caught.value.what


@pytest.mark.parametrize("tags", [[], ["a"], ["a"] * 20, ["x" * 64]], ids=len)
def test_tags_are_up_to_20_of_up_to_64_characters(tags: list[str]) -> None:
    assert make(tags=tags).tags == tuple(tags)


@pytest.mark.parametrize("tags", [["a"] * 21, ["x" * 65], [""], ["ok", ""]], ids=repr)
def test_tags_out_of_bounds_are_refused(tags: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="20"):
        make(tags=tags)


@pytest.mark.parametrize("tags", ["billing", ["\ud800"], ["a\0"]], ids=ascii)
def test_tags_that_are_no_list_of_printable_text_are_refused(tags: Sequence[str]) -> None:
    with pytest.raises(UsageError):
        make(tags=tags)


def test_a_tag_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError):
        make(tags=[5])


@pytest.mark.parametrize("priority", [1, 2, 3, 4, 5])
def test_priorities_go_from_1_to_5(priority: int) -> None:
    assert make(priority=priority).priority == priority


@pytest.mark.parametrize("priority", [0, 6, -1, 2.5, "3", None], ids=repr)
def test_a_priority_out_of_bounds_is_refused(priority: int) -> None:
    with pytest.raises(UsageError, match="priority"):
        make(priority=priority)


@pytest.mark.parametrize("priority", [True, 2.0])
def test_a_priority_that_only_equals_a_number_is_refused(priority: int) -> None:
    with pytest.raises(UsageError):
        make(priority=priority)


@pytest.mark.parametrize(
    "options",
    [
        {"retries": 1, "retry": Retry()},
        {"retries": -1},
        {"retries": True},
        {"retries": 10_001},
        {"timeout": -1},
        {"timeout": "soon"},
        {"timeout": float("nan")},
    ],
    ids=repr,
)
def test_options_out_of_bounds_are_refused_before_anything_is_made(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        task("name", **options)  # type: ignore[call-overload]
    assert caught.value.fix


def test_what_is_no_function_cannot_be_decorated() -> None:
    with pytest.raises(UsageError, match="5 is not a function"):
        task(5)  # type: ignore[call-overload]


# executors


async def inc_later(number: int) -> int:
    return number + 1


class LaterAdder:
    async def __call__(self, number: int) -> int:
        return number + 1


@pytest.mark.parametrize("executor", [None, "thread", "process"])
def test_an_executor_is_kept(executor: Executor | None) -> None:
    assert make(executor=executor).executor == executor
    assert task(inc).executor is None


@pytest.mark.parametrize("executor", ["gpu", "", 1, "Process"], ids=repr)
def test_an_unknown_executor_is_refused(executor: object) -> None:
    with pytest.raises(UsageError, match='use "thread" or "process"'):
        make(executor=executor)


@pytest.mark.parametrize("executor", ["thread", "process"])
@pytest.mark.parametrize("fn", [inc_later, LaterAdder(), task(inc_later)], ids=["function", "object", "task"])
def test_an_async_function_has_no_executor(fn: Callable[..., object], executor: Executor) -> None:
    with pytest.raises(UsageError, match="leave executor out"):
        task("inc", executor=executor)(fn)


def nested() -> Callable[..., object]:
    def inner(number: int) -> int:
        return number

    return inner


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda number: number, "it is a lambda"),
        (nested(), "made inside another function"),
        (functools.partial(inc, 1), "no name"),
        (Adder(1), "no name"),
        (task("t")(nested()), "made inside another function"),
    ],
    ids=["lambda", "nested", "partial", "object", "task"],
)
def test_a_process_wants_a_function_with_a_name_of_its_own(fn: Callable[..., object], reason: str) -> None:
    """Row 24."""
    with pytest.raises(UsageError, match=f"{reason}.*def at the top of a module"):
        task("inc", executor="process")(fn)
    assert task("inc", executor="thread")(fn).executor == "thread"
