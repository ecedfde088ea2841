"""`Flow`: the fluent form and what it compiles to (semantics rows 24, 37, 38, 41, 44, 58)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.definition.flow import Flow
from holdfast.definition.step import Edge, Join, Sleep, Step, WaitSignal
from holdfast.definition.task import task
from holdfast.errors import DefinitionError, UsageError

Target = Callable[[object], object]


def inc(number: object) -> object:
    return number


def double(number: object) -> object:
    return number


def merge(parts: object) -> object:
    return parts


class Counter:
    def add(self, number: object) -> object:
        return number


def problems_of(flow: Flow, *, durable: bool = False) -> list[tuple[str, str]]:
    with pytest.raises(DefinitionError) as caught:
        flow.build(durable=durable)
    return [(problem.step, problem.code) for problem in caught.value.problems]


def names_of(flow: Flow) -> list[str]:
    return [step.name for step in flow.build().iter_nodes()]


def test_a_sequence_is_a_chain_of_task_steps() -> None:
    workflow = Flow("order", metadata={"team": "sales"}).then(inc).then(double, name="twice").build()
    assert list(workflow.iter_nodes()) == [
        Step("inc", task="inc", edges=(Edge("twice"),)),
        Step("twice", task="double"),
    ]
    assert (workflow.name, workflow.start_at, workflow.metadata) == ("order", "inc", {"team": "sales"})
    assert {name: made.fn for name, made in workflow.tasks.items()} == {"inc": inc, "double": double}


def test_the_same_function_twice_is_two_steps() -> None:
    flow = Flow("f").then(inc).then(inc).then(inc)
    assert names_of(flow) == ["inc", "inc_2", "inc_3"]
    assert {step.task for step in flow.build().iter_nodes()} == {"inc"}


def test_a_made_up_name_gives_way_to_a_given_one() -> None:
    assert names_of(Flow("f").then(inc, name="inc_2").then(inc).then(inc)) == ["inc_2", "inc", "inc_3"]


def test_a_task_brings_its_name_and_policies() -> None:
    named = task("increment", retries=2)(inc)
    workflow = Flow("f").then(named).build()
    assert list(workflow.steps) == ["increment"]
    assert workflow.retry("increment") == named.retry


def test_a_bound_method_may_be_used_twice() -> None:
    counter = Counter()
    assert names_of(Flow("f").then(counter.add).then(counter.add)) == ["add", "add_2"]


def test_a_fork_is_a_fork_step_its_branches_and_a_join_step() -> None:
    flow = Flow("f").then(inc).fork().branch(double, inc).branch(inc, name="right").join(merge)
    workflow = flow.then(double).build()
    assert list(workflow.iter_nodes()) == [
        Step("inc", task="inc", edges=(Edge("fork"),)),
        Step(
            "fork",
            "fork",
            edges=(Edge("double", "double"), Edge("inc_3", "right"), Edge("join")),
        ),
        Step("double", task="double", edges=(Edge("inc_2"),)),
        Step("inc_2", task="inc"),
        Step("inc_3", task="inc"),
        Step("join", "join", join=Join(("double", "right")), edges=(Edge("merge"),)),
        Step("merge", task="merge", edges=(Edge("double_2"),)),
        Step("double_2", task="double"),
    ]


def test_a_flow_may_begin_with_a_fork() -> None:
    workflow = Flow("f").fork().branch(inc).branch(double).join(merge).build()
    assert workflow.start_at == "fork"
    assert [step.name for step in workflow.first_steps()] == ["inc", "double"]


def test_a_delay_is_a_sleep_step() -> None:
    """Row 41."""
    dawn = datetime(2030, 1, 1, tzinfo=UTC)
    workflow = Flow("f").then(inc).delay("nap", "1h30m").delay("dawn", until=dawn).then(double).build()
    assert list(workflow.iter_nodes()) == [
        Step("inc", task="inc", edges=(Edge("nap"),)),
        Step("nap", "sleep", sleep=Sleep(5_400_000), edges=(Edge("dawn"),)),
        Step("dawn", "sleep", sleep=Sleep(None, 1_893_456_000_000), edges=(Edge("double"),)),
        Step("double", task="double"),
    ]


def test_a_wait_for_a_signal_bears_its_name_unless_told_otherwise() -> None:
    """Row 41."""
    workflow = Flow("f").wait_for_signal("go").wait_for_signal("go", name="again", timeout=30).build()
    assert list(workflow.iter_nodes()) == [
        Step("go", "wait_signal", wait_signal=WaitSignal("go"), edges=(Edge("again"),)),
        Step("again", "wait_signal", wait_signal=WaitSignal("go", 30_000)),
    ]


def test_what_is_called_on_a_time_out_goes_on_where_the_signal_would_have() -> None:
    """Row 41: its output takes the place of the payload."""
    workflow = Flow("f").wait_for_signal("go", timeout="1d", on_timeout=double).then(inc).build()
    assert list(workflow.iter_nodes()) == [
        Step(
            "go",
            "wait_signal",
            wait_signal=WaitSignal("go", 86_400_000, "double"),
            edges=(Edge("inc"),),
        ),
        Step("double", task="double", edges=(Edge("inc"),)),
        Step("inc", task="inc"),
    ]
    assert set(workflow.tasks) == {"double", "inc"}


def test_a_time_out_may_be_the_end() -> None:
    workflow = Flow("f").wait_for_signal("go", timeout=1, on_timeout=double).build()
    assert [step.edges for step in workflow.iter_nodes()] == [(), ()]


def test_waits_may_follow_one_another_each_with_its_time_out() -> None:
    flow = Flow("f").wait_for_signal("a", timeout=1, on_timeout=inc)
    workflow = flow.wait_for_signal("b", timeout=1, on_timeout=inc).delay("nap", 1).build()
    assert {step.name: step.targets() for step in workflow.iter_nodes()} == {
        "a": ["b", "inc"],
        "inc": ["b"],
        "b": ["nap", "inc_2"],
        "inc_2": ["nap"],
        "nap": [],
    }


def test_a_flow_may_begin_and_end_with_a_wait_around_a_fork() -> None:
    flow = Flow("f").delay("nap", 1).fork().branch(inc).join(merge).wait_for_signal("go")
    assert names_of(flow) == ["nap", "fork", "inc", "join", "merge", "go"]
    assert [step.name for step in flow.build().first_steps()] == ["inc"]


def test_a_flow_hands_its_bounds_on() -> None:
    """Rows 24 and 58."""
    workflow = Flow("f", timeout="2h", retention={"failed": timedelta(days=9)}).then(inc).build()
    assert (workflow.timeout_ms, workflow.retention_ms) == (7_200_000, {"failed": 9 * 86_400_000})


@pytest.mark.parametrize(
    "flow", [Flow("f", timeout=-1), Flow("f", retention="soon")], ids=["timeout", "retention"]
)
def test_bounds_that_are_no_durations_are_refused_when_it_is_built(flow: Flow) -> None:
    with pytest.raises(UsageError):
        flow.then(inc).build()


NO_DURATIONS: list[tuple[Callable[[Flow], Flow], tuple[str, str]]] = [
    (lambda flow: flow.delay("nap", "soon"), ("nap", "duration")),
    (lambda flow: flow.delay("nap", -1), ("nap", "duration")),
    (lambda flow: flow.delay("nap", until=datetime(2030, 1, 1)), ("nap", "duration")),  # noqa: DTZ001 - the error
    (lambda flow: flow.delay("nap", until="tomorrow"), ("nap", "duration")),  # type: ignore[arg-type]
    (lambda flow: flow.delay("nap"), ("nap", "sleep")),
    (lambda flow: flow.delay("nap", 1, until=datetime(2030, 1, 1, tzinfo=UTC)), ("nap", "sleep")),
    (lambda flow: flow.delay(5, 1), ("", "name")),  # type: ignore[arg-type]
    (lambda flow: flow.delay("inc", 1), ("inc", "duplicate_step")),
    (lambda flow: flow.wait_for_signal("inc"), ("inc", "duplicate_step")),
    (lambda flow: flow.wait_for_signal("go", timeout="soon"), ("go", "duration")),
    (lambda flow: flow.wait_for_signal("go", timeout=float("nan")), ("go", "duration")),
    (lambda flow: flow.wait_for_signal("go", on_timeout=double), ("go", "wait")),
    (lambda flow: flow.wait_for_signal("go", timeout=1, on_timeout=5), ("", "not_callable")),  # type: ignore[arg-type]
    (lambda flow: flow.wait_for_signal("go\0", name="go"), ("go", "name")),
    (lambda flow: flow.wait_for_signal(5), ("", "name")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("more", "problem"), NO_DURATIONS, ids=range(len(NO_DURATIONS)))
def test_what_is_wrong_with_a_wait_is_reported_when_it_is_built(
    more: Callable[[Flow], Flow], problem: tuple[str, str]
) -> None:
    """Row 44: nothing raises before."""
    flow = more(Flow("f").then(inc))
    assert problem in problems_of(flow)
    assert ("five", "not_callable") in problems_of(flow.then(5, name="five"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more", [lambda flow: flow.delay("nap", 1), lambda flow: flow.wait_for_signal("go")], ids=["delay", "wait"]
)
def test_a_wait_beside_an_open_fork_is_reported(more: Callable[[Flow], Flow]) -> None:
    flow = Flow("f")
    flow.fork().branch(inc)
    assert ("", "open_fork") in problems_of(more(flow))


def test_forks_may_follow_one_another() -> None:
    flow = Flow("f").fork().branch(inc).join(merge).fork().branch(double).join(merge, name="last")
    assert names_of(flow) == [
        *["fork", "inc", "join", "merge"],
        *["fork_2", "double", "join_2", "last"],
    ]


def test_the_function_of_a_join_may_be_named() -> None:
    assert "all" in names_of(Flow("f").fork().branch(inc).join(merge, name="all"))


def test_two_forks_with_a_branch_of_the_same_name_are_a_build_error() -> None:
    """Row 9: a named edge can be entered once in a run, so such a flow can never complete."""
    flow = Flow("f").fork().branch(inc, name="left").join(merge)
    assert ("left", "duplicate_branch") in problems_of(flow.fork().branch(double, name="left").join(merge))


def test_a_lambda_needs_no_name_in_memory() -> None:
    workflow = Flow("f").then(lambda number: number).then(lambda number: number).build()
    assert [step.task for step in workflow.iter_nodes()] == ["lambda", "lambda_2"]
    assert workflow.tasks["lambda"].fn is not workflow.tasks["lambda_2"].fn


def test_a_durable_flow_asks_for_the_names_of_its_lambdas() -> None:
    flow = Flow("f").then(lambda n: n).then(lambda n: n, name="named").then(lambda n: n)
    assert problems_of(flow, durable=True) == [("lambda", "nameless"), ("lambda_2", "nameless")]
    assert names_of(flow) == ["lambda", "named", "lambda_2"]


def test_a_named_lambda_is_durable() -> None:
    workflow = Flow("f").then(lambda number: number, name="same").build(durable=True)
    assert list(workflow.tasks) == ["same"]


def test_a_lambda_never_replaces_a_function_of_the_same_name() -> None:
    flow = Flow("f").then(inc, name="first").then(lambda number: number, name="inc")
    with pytest.raises(DefinitionError):
        flow.build()


@pytest.mark.parametrize("durable", [False, True])
def test_building_twice_gives_equal_workflows(durable: bool) -> None:
    flow = Flow("f").then(inc).fork().branch(inc).branch(double).join(merge)
    first, second = flow.build(durable=durable), flow.build(durable=durable)
    assert first is not second
    assert first.fingerprint == second.fingerprint
    assert list(first.iter_nodes()) == list(second.iter_nodes())


def test_a_flow_may_grow_after_it_was_built() -> None:
    flow = Flow("f").then(inc)
    short = flow.build()
    assert len(flow.then(inc).build().steps) == 2
    assert len(short.steps) == 1


def test_a_flow_without_steps_is_refused() -> None:
    assert problems_of(Flow("f")) == [("", "empty")]


def test_a_fork_without_branches_is_refused() -> None:
    assert problems_of(Flow("f").fork().join(merge)) == [("", "empty_fork")]


def test_a_fork_of_more_than_a_thousand_branches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.definition.flow.BRANCHES_MAX", 2)
    fork = Flow("f").fork().branch(inc).branch(inc)
    two = fork.branch(inc).join(merge)
    assert problems_of(two) == [("", "empty_fork")]


def test_a_branch_without_functions_is_refused() -> None:
    flow = Flow("f").fork().branch(name="left").branch(inc).join(merge)
    assert problems_of(flow) == [("left", "empty_branch")]


def test_two_branches_of_one_name_are_refused() -> None:
    flow = Flow("f").fork().branch(inc, name="x").branch(double, name="x").join(merge)
    assert problems_of(flow) == [("x", "duplicate_branch")]


def test_a_branch_by_default_bears_the_distinct_name_of_its_first_step() -> None:
    workflow = Flow("f").fork().branch(inc).branch(inc).join(merge).build()
    assert workflow.steps["join"].join == Join(("inc", "inc_2"))


@pytest.mark.parametrize("more", [Flow.build, lambda flow: flow.then(inc), Flow.fork])
def test_an_open_fork_is_reported_whatever_comes_after_it(more: Callable[[Flow], object]) -> None:
    flow = Flow("f").then(inc)
    flow.fork().branch(inc)
    if more is Flow.build:
        assert problems_of(flow) == [("", "open_fork")]
    else:
        more(flow)
        assert ("", "open_fork") in problems_of(flow)


def test_an_open_fork_is_reported_once_however_often_it_is_built() -> None:
    flow = Flow("f").then(inc)
    flow.fork().branch(inc)
    assert problems_of(flow) == problems_of(flow) == [("", "open_fork")]


@pytest.mark.parametrize("more", [lambda flow: flow.then(inc), Flow.fork], ids=["then", "fork"])
def test_a_fork_that_is_joined_too_late_is_reported(more: Callable[[Flow], object]) -> None:
    flow = Flow("f").then(inc)
    fork = flow.fork().branch(inc)
    more(flow)
    fork.join(merge)
    assert ("", "open_fork") in problems_of(flow)


def test_what_cannot_be_called_is_refused() -> None:
    flow = Flow("f").then(5, name="five").then("inc")  # type: ignore[arg-type]
    assert problems_of(flow) == [("five", "not_callable"), ("", "not_callable")]


def test_two_functions_of_one_name_are_refused() -> None:
    other = task("inc")(double)
    assert problems_of(Flow("f").then(inc).then(other)) == [("inc", "task_name")]


def test_a_given_name_that_is_taken_is_refused() -> None:
    assert problems_of(Flow("f").then(inc).then(double, name="inc")) == [("inc", "duplicate_step")]


def test_all_build_errors_come_at_once() -> None:
    """Row 44."""
    flow = Flow("f").then(5).then(inc, name="a").then(double, name="a")  # type: ignore[arg-type]
    flow.fork().branch().branch(lambda n: n, name="x").branch(inc, name="x").join(merge)
    flow.fork()
    assert {code for _, code in problems_of(flow, durable=True)} == {
        *["not_callable", "duplicate_step", "empty_branch", "duplicate_branch", "open_fork", "nameless"]
    }


def test_errors_of_names_come_with_all_others() -> None:
    """Row 44."""
    flow = Flow("f").then(inc, name="a\0").fork().branch(inc, name="main").join(merge).then(5)  # type: ignore[arg-type]
    assert {code for _, code in problems_of(flow)} == {"not_callable", "name", "branch_name"}


def test_names_in_an_open_fork_come_with_all_others() -> None:
    """Row 44."""
    flow = Flow("f").then(inc)
    flow.fork().branch(inc, name="main").branch(name="a\0")
    expected = [("a\0", "empty_branch"), ("", "open_fork"), ("fork", "branch_name"), ("fork", "branch_name")]
    assert problems_of(flow) == problems_of(flow) == expected


def test_the_name_of_an_empty_flow_comes_with_all_others() -> None:
    """Row 44."""
    assert problems_of(Flow("a\0")) == [("", "empty"), ("", "name")]


def test_a_fork_is_joined_once() -> None:
    fork = Flow("f").fork().branch(inc)
    fork.join(merge)
    assert problems_of(fork.join(merge)) == [("", "open_fork")]


def test_names_are_checked_when_all_else_is_well() -> None:
    flow = Flow("f").then(inc, name="a\0").fork().branch(inc, name="main").join(merge)
    assert problems_of(flow) == [("a\0", "name"), ("fork", "branch_name")]


def test_the_message_lists_every_problem_on_a_line() -> None:
    flow = Flow("order").then(5, name="five").then(6, name="six")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError) as caught:
        flow.build()
    assert str(caught.value).splitlines() == [
        "flow 'order' cannot be built:",
        "  - step 'five': 5 is not a function or task [not_callable]",
        "  - step 'six': 6 is not a function or task [not_callable]",
    ]
