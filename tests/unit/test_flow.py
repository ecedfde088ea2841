"""`Flow`: the fluent form and what it compiles to (semantics rows 37, 38, 44)."""

from collections.abc import Callable

import pytest

from holdfast.definition.flow import Flow
from holdfast.definition.step import Edge, Join, Step
from holdfast.definition.task import task
from holdfast.errors import DefinitionError

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
