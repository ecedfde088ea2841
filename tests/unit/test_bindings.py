"""A workflow bound to its code (semantics rows 37, 44, 45)."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from holdfast.core.decide import decide
from holdfast.core.effects import StartAttempt
from holdfast.core.events import AttemptSucceeded, StartRequested
from holdfast.core.evolve import evolve
from holdfast.core.owed import owed
from holdfast.core.run import Run
from holdfast.definition.flow import Flow
from holdfast.definition.step import Edge, Join, Step
from holdfast.definition.workflow import Workflow
from holdfast.errors import DefinitionError
from holdfast.runtime.bindings import BoundWorkflow


@dataclasses.dataclass
class Order:
    id: int


class Stranger: ...


def ship(order: Order) -> Order:
    return order


def count(order: Order) -> int:
    return order.id


def note(order: dict[str, int]) -> str:
    return str(order)


def merge(parts: object) -> object:
    return parts


def ended(workflow: Workflow, output: bytes) -> Run:
    """A run in which every attempt gave this output."""
    run = Run("r")
    events: list[StartRequested | AttemptSucceeded] = [StartRequested(b'json.1:{"id":1}')]
    while events:
        for entry in decide(workflow, run, events):
            evolve(run, entry, 1)
        events = [
            AttemptSucceeded(at.branch, at.step, at.visit, at.attempt, output)
            for at in owed(run)
            if isinstance(at, StartAttempt)
        ]
    return run


def problems_of(*targets: Callable[..., object]) -> list[tuple[str, str]]:
    flow = Flow("f")
    for number, target in enumerate(targets):
        flow.then(target, name=f"s{number}")
    with pytest.raises(DefinitionError) as caught:
        BoundWorkflow(flow.build())
    assert "workflow 'f'" in caught.value.subject
    return [(problem.step, problem.code) for problem in caught.value.problems]


def test_everything_that_cannot_be_called_is_said_at_once() -> None:
    def two(left: int, right: int) -> None: ...

    def keyword(*, order: Order) -> None: ...

    def missing(order: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the test

    def impossible(order: Order | dict[str, int] | list[int] | tuple[int, ...]) -> None: ...

    assert problems_of(two, ship, keyword, missing, impossible) == [
        *[("s0", "signature"), ("s2", "signature"), ("s3", "signature"), ("s4", "signature")]
    ]


@pytest.mark.parametrize("target", [str, int, len, str.upper, Order, {}.get])
def test_builtins_and_classes_are_steps_too(target: Callable[..., object]) -> None:
    """Row 37: any callable."""
    assert BoundWorkflow(Flow("f").then(target, name="s").build()).steps["s"].decode is not None


def test_a_step_without_its_code_is_not_bound() -> None:
    steps = [Step("a", task="ship", edges=(Edge("b"),)), Step("b", task="gone")]
    flow = Flow("w").then(ship, name="a").build()
    bound = BoundWorkflow(Workflow("w", steps, tasks=flow.tasks.values()))
    assert list(bound.steps) == ["a"]


def test_the_output_is_decoded_by_the_annotation_of_the_last_step() -> None:
    """Row 45."""
    workflow = Flow("f").then(count).then(ship).build()
    assert BoundWorkflow(workflow).output(ended(workflow, b'json.1:{"id":7}')) == Order(7)


def test_the_output_of_a_join_at_the_end_is_a_plain_dict() -> None:
    edges = (Edge("ship", "x"), Edge("join"))
    steps = [
        Step("fork", "fork", edges=edges),
        Step("ship", task="ship"),
        Step("join", "join", join=Join(("x",))),
    ]
    workflow = Workflow("w", steps, tasks=Flow("f").then(ship).build().tasks.values())
    assert BoundWorkflow(workflow).output(ended(workflow, b'json.1:{"id":7}')) == {"x": {"id": 7}}


def test_a_run_that_is_not_completed_has_no_output() -> None:
    assert BoundWorkflow(Flow("f").then(ship).build()).output(Run("r")) is None


def test_the_input_is_what_the_first_step_takes() -> None:
    schema = json.loads(BoundWorkflow(Flow("f").then(count).then(ship).build()).input_schema())
    assert schema["$defs"]["Order"]["required"] == ["id"]
    assert schema["$ref"] == "#/$defs/Order"


def test_the_input_is_what_all_branches_of_a_first_fork_take() -> None:
    flow = Flow("f").fork().branch(ship).branch(note).join(merge)
    bound = BoundWorkflow(flow.build())
    assert [step.name for step in bound.first] == ["ship", "note"]
    assert len(json.loads(bound.input_schema())["allOf"]) == 2


def test_a_first_step_that_takes_anything_says_so() -> None:
    assert BoundWorkflow(Flow("f").then(lambda order: order).build()).input_schema() == b"{}"
