"""`Workflow`: validation, fingerprints, the stored structure (rows 3, 7, 9, 21, 24, 29 to 31, 58, 65)."""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.definition import validate
from holdfast.definition.duration import DURATION_MAX_MS
from holdfast.definition.fingerprint import step_fingerprint
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Pause, Sleep, Step, WaitSignal
from holdfast.definition.task import task
from holdfast.definition.workflow import Workflow
from holdfast.errors import DefinitionError, FormatError, UsageError

GOLDEN_STEPS = (
    Step("validate", task="validate", edges=(Edge("fan"),)),
    Step("fan", "fork", edges=(Edge("reserve", "reserve"), Edge("charge", "pay"), Edge("gather"))),
    Step("reserve", task="reserve"),
    Step("charge", task="charge"),
    Step("gather", "join", join=Join(("reserve", "pay")), edges=(Edge("ship"),)),
    Step("ship", task="ship"),
)
GOLDEN_FINGERPRINT = "52c07e784e31bb37"
GOLDEN_STEP_FINGERPRINT = "9c44c60d48b3c56a"
PRINT_GOLDEN = """
from holdfast.definition.step import Edge, Join, Step
from holdfast.definition.workflow import Workflow
steps = eval(input())
print(Workflow("order", steps).fingerprint)
"""


def a(name: str = "a", *edges: Edge) -> Step:
    return Step(name, task=name, edges=edges)


def fork(*edges: Edge) -> Step:
    return Step("fork", "fork", edges=edges)


def nap(*edges: Edge, sleep: Sleep | None = None, name: str = "nap") -> Step:
    return Step(name, "sleep", sleep=Sleep(5_000) if sleep is None else sleep, edges=edges)


def wait(*edges: Edge, wait_signal: WaitSignal | None = None, name: str = "wait") -> Step:
    waited = WaitSignal("go") if wait_signal is None else wait_signal
    return Step(name, "wait_signal", wait_signal=waited, edges=edges)


def pause(*edges: Edge, name: str = "pause") -> Step:
    return Step(name, "pause", pause=Pause("look"), edges=edges)


def problems_of(
    steps: Iterable[Step], *, name: str = "w", start_at: str | None = None
) -> list[tuple[str, str, str]]:
    with pytest.raises(DefinitionError) as caught:
        Workflow(name, steps, start_at=start_at)
    return [(problem.step, problem.path, problem.code) for problem in caught.value.problems]


CIRCLE = (
    fork(Edge("a", "x"), Edge("b")),
    a(),
    a("b", Edge("j")),
    Step("j", "join", join=Join(("x",)), edges=(Edge("k"),)),
)
FORK_IN_FORK = ("a", "edges[0]", "fork_in_fork")
KNOWN_PROBLEMS: list[tuple[list[Step], str | None, tuple[str, str, str]]] = [
    ([], None, ("", "steps", "steps_count")),
    ([a()], "b", ("", "start_at", "unknown_step")),
    ([a()], "", ("", "start_at", "unknown_step")),
    ([a("a", Edge("b"))], None, ("a", "edges[0]", "unknown_step")),
    ([a("", Edge("")), a("")], None, ("", "name", "duplicate_step")),
    ([a("x" * 256)], None, ("x" * 256, "name", "name")),
    ([a("a\n")], None, ("a\n", "name", "name")),
    ([a("\ud800")], None, ("\ud800", "name", "name")),
    ([a(), a()], None, ("a", "name", "duplicate_step")),
    ([Step("a")], None, ("a", "task", "kind")),
    ([Step("a", task="a", join=Join(("x",)))], None, ("a", "join", "kind")),
    ([Step("a", "join", task="a", join=Join(("x",)))], None, ("a", "task", "kind")),
    ([Step("a", "join")], None, ("a", "join", "kind")),
    ([Step("a", "fork", task="a", edges=(Edge("a"),))], None, ("a", "task", "kind")),
    ([Step("a", "fork")], None, ("a", "edges", "kind")),
    ([fork(Edge("a", "main")), a()], None, ("fork", "edges[0]", "branch_name")),
    ([fork(Edge("a", "")), a()], None, ("fork", "edges[0]", "branch_name")),
    ([fork(Edge("a", "main-2")), a()], None, ("fork", "edges[0]", "branch_name")),
    ([fork(Edge("a", "x-y-17")), a()], None, ("fork", "edges[0]", "branch_name")),
    ([a("a", Edge("fork"), Edge("b")), fork(Edge("b")), a("b")], None, ("a", "edges[0]", "fork_in_fork")),
    ([a("a", Edge("fork", "x")), fork(Edge("a"))], None, ("a", "edges[0]", "fork_in_fork")),
    ([fork(Edge("fork"))], None, ("fork", "edges[0]", "fork_in_fork")),
    (
        [a("a", Edge("j")), Step("j", "join", join=Join(("x",)))],
        None,
        ("j", "join", "unknown_branch"),
    ),
    ([a("a", Edge("j")), Step("j", "join", join=Join(()))], None, ("j", "join", "unknown_branch")),
    ([*CIRCLE, Step("k", "join", join=Join(("x",)), edges=(Edge("j"),))], None, ("j", "edges", "endless")),
    ([*CIRCLE, Step("k", "join", join=Join(("x",)), edges=(Edge("j"),))], None, ("k", "edges", "endless")),
    ([Step("a", task="a", sleep=Sleep(1))], None, ("a", "sleep", "kind")),
    ([Step("a", "sleep")], None, ("a", "sleep", "kind")),
    ([Step("a", "sleep", task="a", sleep=Sleep(1))], None, ("a", "task", "kind")),
    ([Step("a", "wait_signal")], None, ("a", "wait_signal", "kind")),
    ([Step("a", "sleep", sleep=Sleep(1), wait_signal=WaitSignal("s"))], None, ("a", "wait_signal", "kind")),
    ([Step("a", "pause", edges=(Edge("b"),)), a("b")], None, ("a", "pause", "kind")),
    ([Step("a", "fork", pause=Pause(), edges=(Edge("b"),)), a("b")], None, ("a", "pause", "kind")),
    ([Step("a", "pause", pause=Pause())], None, ("a", "edges", "kind")),
    ([nap(sleep=Sleep())], None, ("nap", "sleep", "sleep")),
    ([nap(sleep=Sleep(1, 1))], None, ("nap", "sleep", "sleep")),
    ([nap(sleep=Sleep(-1))], None, ("nap", "sleep.duration_ms", "bounds")),
    ([nap(sleep=Sleep(DURATION_MAX_MS + 1))], None, ("nap", "sleep.duration_ms", "bounds")),
    ([nap(sleep=Sleep(True))], None, ("nap", "sleep.duration_ms", "bounds")),
    ([nap(sleep=Sleep(1.5))], None, ("nap", "sleep.duration_ms", "bounds")),  # type: ignore[arg-type]
    ([nap(sleep=Sleep(None, -1))], None, ("nap", "sleep.until_ms", "bounds")),
    ([nap(sleep=Sleep(None, 253_402_300_800_000))], None, ("nap", "sleep.until_ms", "bounds")),
    ([wait(wait_signal=WaitSignal(""))], None, ("wait", "signal", "name")),
    ([wait(wait_signal=WaitSignal("s\0"))], None, ("wait", "signal", "name")),
    ([wait(wait_signal=WaitSignal("s", -1))], None, ("wait", "wait_signal.timeout_ms", "bounds")),
    (
        [wait(wait_signal=WaitSignal("s", DURATION_MAX_MS + 1))],
        None,
        ("wait", "wait_signal.timeout_ms", "bounds"),
    ),
    ([wait(wait_signal=WaitSignal("s", None, "a")), a()], None, ("wait", "wait_signal.on_timeout", "wait")),
    ([wait(wait_signal=WaitSignal("s", 1, "b"))], None, ("wait", "wait_signal.on_timeout", "unknown_step")),
    ([pause(Edge("pause"))], None, ("pause", "edges", "endless")),
    ([pause(Edge("b")), pause(Edge("pause"), name="b")], None, ("b", "edges", "endless")),
    ([a("a", Edge("pause", "x")), pause(Edge("fork")), fork(Edge("a"))], None, FORK_IN_FORK),
    ([a("a", Edge("pause", "x")), pause(Edge("b", "y")), a("b")], None, FORK_IN_FORK),
    ([a("a", Edge("pause", "x")), pause(Edge("b"), Edge("b")), a("b")], None, FORK_IN_FORK),
    (
        [a("a", Edge("p", "x")), pause(Edge("pause"), name="p"), pause(Edge("b"), Edge("b")), a("b")],
        None,
        FORK_IN_FORK,
    ),
    ([a(), a("b")], None, ("b", "", "unreachable")),
    ([a("a", Edge("b")), a("b")], "b", ("a", "", "unreachable")),
    ([a(), a("b", Edge("c")), a("c", Edge("b"))], None, ("c", "", "unreachable")),
]


@pytest.mark.parametrize(
    ("steps", "start_at", "problem"), KNOWN_PROBLEMS, ids=[p[2][2] for p in KNOWN_PROBLEMS]
)
def test_a_graph_that_is_not_well_formed_is_refused(
    steps: list[Step], start_at: str | None, problem: tuple[str, str, str]
) -> None:
    """Row 21."""
    assert problem in problems_of(steps, start_at=start_at)


def test_every_code_of_a_problem_is_tested() -> None:
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(validate))) if isinstance(node, ast.Call))
    codes = {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "_problem"
        for argument in call.args[2:3]
        if isinstance(argument, ast.Constant)
    }
    assert codes == {problem[2] for _, _, problem in KNOWN_PROBLEMS}


@pytest.mark.parametrize("name", ["", "w" * 256, "a\0", "\udcff", 5, None], ids=ascii)
def test_the_name_of_a_workflow_is_text_within_bounds(name: str) -> None:
    assert problems_of([a()], name=name) == [("", "name", "name")]


def test_a_workflow_has_a_bound_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "STEPS_MAX", 2)
    chain = [a("a", Edge("b")), a("b", Edge("c")), a("c")]
    assert problems_of(chain) == [("", "steps", "steps_count")]
    assert len(Workflow("w", [*chain[:1], a("b")]).steps) == 2


def test_all_problems_come_at_once() -> None:
    steps = [
        Step("a\0", task="t", edges=(Edge("nowhere"), Edge("b", "main"))),
        Step("b"),
        Step("b", "join", join=Join(("ghost",))),
    ]
    assert set(problems_of(steps, name="", start_at="z")) == {
        ("", "name", "name"),
        ("", "start_at", "unknown_step"),
        ("a\0", "name", "name"),
        ("a\0", "edges[0]", "unknown_step"),
        ("a\0", "edges[1]", "branch_name"),
        ("b", "name", "duplicate_step"),
        ("b", "task", "kind"),
        ("b", "join", "unknown_branch"),
    }


@pytest.mark.parametrize("branch", ["x", "-1", "a-b", "a-1b", "main2", "名前", "x" * 255])
def test_a_branch_bears_any_name_that_is_not_a_generated_one(branch: str) -> None:
    assert Workflow("w", [fork(Edge("a", branch)), a()]).start_at == "fork"


@pytest.mark.parametrize("branch", ["x" * 256, "a\0"], ids=["long", "control"])
def test_the_name_of_a_branch_is_held_to_the_bounds_of_names(branch: str) -> None:
    assert problems_of([fork(Edge("a", branch)), a()]) == [("fork", "edges[0]", "branch_name")]


@pytest.mark.parametrize(
    "steps", [[fork(Edge("a", "\ud800")), a()], [Step("a", task="\ud800")]], ids=["branch", "task"]
)
def test_lone_surrogates_in_other_names_are_a_problem_too(steps: list[Step]) -> None:
    assert problems_of(steps)


def test_a_kind_that_does_not_exist_is_a_problem() -> None:
    """Row 7."""
    assert problems_of([Step("a", "bogus")]) == [("a", "kind", "kind")]  # type: ignore[arg-type]


def test_a_fork_that_names_one_branch_twice_is_a_problem() -> None:
    """Row 9: whoever comes there fails with `duplicate_branch`."""
    assert problems_of([fork(Edge("a", "x"), Edge("b", "x")), a(), a("b")])


@pytest.mark.parametrize(
    "steps",
    [
        [nap(sleep=Sleep(0))],
        [nap(sleep=Sleep(DURATION_MAX_MS))],
        [nap(sleep=Sleep(None, 0))],
        [nap(sleep=Sleep(None, 253_402_300_799_999))],
        [nap(Edge("nap"))],
        [wait(Edge("wait"), wait_signal=WaitSignal("s", 0, "wait"))],
        [wait(wait_signal=WaitSignal("s", 1, "pause")), pause(Edge("a")), a()],
        [wait(wait_signal=WaitSignal("s", 1, "fork")), fork(Edge("a", "x")), a()],
        [pause(Edge("a", "x"), Edge("a")), a()],
        [pause(Edge("fork")), fork(Edge("a", "x"), Edge("a", "y")), a()],
        [pause(Edge("wait")), wait(Edge("pause"))],
        [fork(Edge("pause", "x"), Edge("wait", "y")), pause(Edge("nap")), nap(), wait()],
    ],
    ids=range(12),
)
def test_steps_that_wait_make_a_graph_like_others(steps: list[Step]) -> None:
    """Rows 29 to 31, invariant 28: 0 to 100 years; what a time-out leads to is reached by it."""
    assert len(Workflow("w", steps).steps) == len(steps)


def test_edges_may_point_back() -> None:
    """Row 16."""
    assert len(Workflow("w", [a("a", Edge("b")), a("b", Edge("a"))]).steps) == 2


def test_a_circle_of_joins_with_a_task_in_it_is_fine() -> None:
    """Row 16."""
    steps = (*CIRCLE, a("k", Edge("j")))
    assert len(Workflow("w", steps).steps) == 5


def test_a_join_that_leads_into_a_circle_is_not_in_it() -> None:
    into = Step("into", "join", join=Join(("x",)), edges=(Edge("j"),))
    steps = [fork(Edge("a", "x"), Edge("into")), a(), into, CIRCLE[-1]]
    steps.append(Step("k", "join", join=Join(("x",)), edges=(Edge("j"),)))
    assert [step for step, _, _ in problems_of(steps)] == ["j", "k"]


def test_a_workflow_starts_at_its_first_step_unless_told_otherwise() -> None:
    """Row 3."""
    steps = [a("a", Edge("b")), a("b", Edge("a"))]
    assert Workflow("w", steps).start_at == "a"
    assert Workflow("w", steps, start_at="b").start_at == "b"


def test_what_a_workflow_is_made_of_cannot_be_changed() -> None:
    facts = {"team": "sales"}
    workflow = Workflow("w", [a()], metadata=facts)
    facts["team"] = "other"
    assert workflow.metadata == {"team": "sales"}
    for part in (workflow.steps, workflow.tasks, workflow.metadata):
        with pytest.raises(TypeError):
            part["x"] = 1  # type: ignore[index]


def test_a_step_finds_its_task_and_policies() -> None:
    known = task("a", retries=1)(lambda number: number)
    workflow = Workflow("w", [a("a", Edge("b")), a("b", Edge("fork")), fork(Edge("a"))], tasks=[known])
    assert workflow.task_of("a") is known
    assert workflow.retry("a") == (Retry(max_retries=1),)
    assert (workflow.task_of("b"), workflow.retry("b")) == (None, ())
    assert (workflow.task_of("fork"), workflow.retry("fork")) == (None, ())
    assert workflow.missing_tasks() == ["b"]


def test_all_steps_that_get_the_input_are_known() -> None:
    assert [step.name for step in Workflow("w", [a()]).first_steps()] == ["a"]
    assert [step.name for step in Workflow("order", GOLDEN_STEPS[1:]).first_steps()] == [*["reserve", "charge"]]
    steps = [nap(Edge("pause")), pause(Edge("a", "x"), Edge("b")), a(), a("b"), a("c", Edge("nap"))]
    assert [step.name for step in Workflow("w", [*steps[:4]]).first_steps()] == ["a", "b"]


def test_a_signal_takes_the_place_of_the_input_but_not_where_it_does_not_come() -> None:
    """Row 65: only the step that a time-out leads to gets the run's input."""
    steps = [wait(Edge("a"), wait_signal=WaitSignal("s", 1, "b")), a(), a("b")]
    assert [step.name for step in Workflow("w", steps).first_steps()] == ["b"]
    assert Workflow("w", [wait(Edge("a")), a()]).first_steps() == []


def test_a_fingerprint_is_the_same_for_ever() -> None:
    """Invariant 5: stored runs are found by it, so no later version may compute another one."""
    workflow = Workflow("order", GOLDEN_STEPS)
    assert workflow.fingerprint == workflow.definition_hash == GOLDEN_FINGERPRINT
    assert step_fingerprint(GOLDEN_STEPS[1]) == GOLDEN_STEP_FINGERPRINT
    assert repr(workflow) == f"<workflow order {GOLDEN_FINGERPRINT}>"


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_a_fingerprint_is_the_same_in_every_process(seed: str) -> None:
    """Invariant 5."""
    steps = repr(GOLDEN_STEPS)
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Kathmandu"}
    command = [sys.executable, "-c", PRINT_GOLDEN]
    out = subprocess.run(
        command, input=steps, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert out.strip() == GOLDEN_FINGERPRINT


@given(st.permutations(GOLDEN_STEPS))
def test_a_fingerprint_does_not_depend_on_the_order_of_the_steps(steps: list[Step]) -> None:
    assert Workflow("order", steps, start_at="validate").fingerprint == GOLDEN_FINGERPRINT


def test_a_fingerprint_covers_neither_policies_nor_code_nor_metadata() -> None:
    tasks = [task(step.name, retries=3, timeout=5)(lambda n: n) for step in GOLDEN_STEPS]
    workflow = Workflow("order", GOLDEN_STEPS, tasks=tasks, metadata={"team": "sales"})
    assert workflow.fingerprint == GOLDEN_FINGERPRINT


BASE = (a("a", Edge("fork")), fork(Edge("b", "x"), Edge("j")), a("b"), Step("j", "join", join=Join(("x",))))


@pytest.mark.parametrize(
    ("name", "start_at", "steps"),
    [
        ("w2", None, BASE),
        ("w", "a", (a("a", Edge("fork")), fork(Edge("b", "x"), Edge("j")), a("b", Edge("a")), BASE[3])),
        ("w", None, (Step("a", task="b", edges=(Edge("fork"),)), *BASE[1:])),
        ("w", None, (BASE[0], fork(Edge("j"), Edge("b", "x")), *BASE[2:])),
        ("w", None, (BASE[0], fork(Edge("b", "x"), Edge("j", "y")), *BASE[2:])),
        ("w", None, (*BASE[:3], Step("j", "join", join=Join(("x",)), edges=(Edge("a"),)))),
        ("w", None, (*BASE[:3], Step("j", "join", join=Join(("x", "x"))))),
    ],
    ids=["name", "edge", "task", "order of edges", "branch", "edge of join", "join"],
)
def test_a_fingerprint_covers_all_that_changes_what_is_recorded(
    name: str, start_at: str | None, steps: tuple[Step, ...]
) -> None:
    assert Workflow(name, steps, start_at=start_at).fingerprint != Workflow("w", BASE).fingerprint


def test_a_fingerprint_covers_the_start() -> None:
    steps = [a("a", Edge("b")), a("b", Edge("a"))]
    assert Workflow("w", steps).fingerprint != Workflow("w", steps, start_at="b").fingerprint


WAITING_STEPS = (
    a("a", Edge("nap")),
    nap(Edge("dawn")),
    nap(Edge("pause"), sleep=Sleep(None, 1_893_456_000_000), name="dawn"),
    pause(Edge("wait")),
    wait(Edge("b"), wait_signal=WaitSignal("go", 9_000, "c")),
    a("b"),
    a("c"),
)
WAITING_FINGERPRINT = "4e3e6d38754a4b5f"


def test_a_fingerprint_of_steps_that_wait_is_the_same_for_ever() -> None:
    """Invariant 5."""
    assert Workflow("w", WAITING_STEPS).fingerprint == WAITING_FINGERPRINT


@pytest.mark.parametrize(
    "other",
    [
        nap(Edge("dawn"), sleep=Sleep(5_001)),
        nap(Edge("dawn"), sleep=Sleep(None, 5_000)),
        pause(Edge("wait"), Edge("wait")),
        wait(Edge("b"), wait_signal=WaitSignal("gone", 9_000, "c")),
        wait(Edge("b"), wait_signal=WaitSignal("go", 9_001, "c")),
        wait(Edge("b"), wait_signal=WaitSignal("go", 9_000, "b")),
    ],
    ids=range(6),
)
def test_a_fingerprint_covers_what_is_waited_for(other: Step) -> None:
    steps = [other if step.name == other.name else step for step in WAITING_STEPS]
    steps.append(fork(Edge("c", "x"), Edge("a")))
    same = [*WAITING_STEPS, steps[-1]]
    first = Workflow("w", steps, start_at="fork")
    assert first.fingerprint != Workflow("w", same, start_at="fork").fingerprint


def test_a_time_out_and_a_retention_are_in_no_fingerprint() -> None:
    """Rows 24 and 58: a run keeps the time-out that it was started with in its journal."""
    workflow = Workflow("order", GOLDEN_STEPS, timeout="1h", retention="30d")
    assert workflow.fingerprint == GOLDEN_FINGERPRINT
    assert (workflow.timeout_ms, workflow.retention_ms) == (
        3_600_000,
        {"completed": 30 * 86_400_000, "cancelled": 30 * 86_400_000},
    )
    plain = Workflow("order", GOLDEN_STEPS)
    assert (plain.timeout_ms, plain.retention_ms) == (None, {})


@pytest.mark.parametrize(
    "options",
    [{"timeout": -1}, {"timeout": "soon"}, {"retention": 0.5}, {"retention": {"running": "1d"}}],
    ids=str,
)
def test_bounds_of_a_workflow_that_are_no_durations_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Workflow("w", [a()], **options)  # type: ignore[arg-type]


def test_a_structure_has_the_time_out_where_there_is_one() -> None:
    """What is stored of definitions without one is what was stored before there were any."""
    plain = Workflow("w", [a()])
    assert msgspec.json.decode(plain.structure()).keys() == {"name", "start_at", "steps"}
    assert Workflow.from_structure(plain.structure()).timeout_ms is None
    bounded = Workflow("w", [a()], timeout=30, retention="1d")
    assert msgspec.json.decode(bounded.structure())["timeout_ms"] == 30_000
    assert Workflow.from_structure(bounded.structure()).timeout_ms == 30_000


def test_a_structure_of_steps_that_wait_comes_back() -> None:
    first = Workflow("w", WAITING_STEPS)
    again = Workflow.from_structure(first.structure())
    assert list(again.iter_nodes()) == list(first.iter_nodes())
    stored = {step["name"]: step for step in msgspec.json.decode(first.structure())["steps"]}
    assert stored["nap"]["sleep"] == {"duration_ms": 5_000}
    assert stored["dawn"]["sleep"] == {"until_ms": 1_893_456_000_000}
    assert stored["pause"]["pause"] == {"reason": "look"}
    assert stored["wait"]["wait_signal"] == {"signal": "go", "timeout_ms": 9_000, "on_timeout": "c"}


def test_a_structure_comes_back_with_the_tasks_it_calls() -> None:
    tasks = [task(name)(lambda n: n) for name in ("ship", "other")]
    first = Workflow("order", GOLDEN_STEPS, metadata={"team": "sales"})
    again = Workflow.from_structure(first.structure(), tasks=tasks)
    assert list(again.iter_nodes()) == list(first.iter_nodes())
    assert (again.name, again.start_at, again.fingerprint) == ("order", "validate", GOLDEN_FINGERPRINT)
    assert list(again.tasks) == ["ship"]
    assert again.structure() == first.structure()


def test_a_structure_is_the_json_that_its_docstring_shows() -> None:
    assert msgspec.json.decode(Workflow("w", [a("a", Edge("b", "x")), a("b")]).structure()) == {
        "name": "w",
        "start_at": "a",
        "steps": [
            {"name": "a", "task": "a", "edges": [{"step": "b", "branch": "x"}]},
            {"name": "b", "task": "b"},
        ],
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"name":"w","start_at":"a"}',
        b'{"name":"w","start_at":"a","steps":[{}]}',
        b'{"name":"w","start_at":"a","steps":[{"name":"a","kind":"dream"}]}',
        b'{"name":5,"start_at":"a","steps":[]}',
        b'{"name":"w","start_at":"a","steps":[],"version":2}',
        b'{"name":"w","start_at":"a","steps":[{"name":"a","task":"a"}],"timeout_ms":-1}',
        b'{"name":"w","start_at":"a","steps":[{"name":"a","kind":"sleep","sleep":{"duration_ms":-1}}]}',
        Workflow("order", GOLDEN_STEPS).structure()[:-1],
        Workflow("order", GOLDEN_STEPS).structure() + b"}",
    ],
    ids=range(13),
)
def test_a_damaged_structure_is_a_format_error(data: bytes) -> None:
    """Invariant 7."""
    with pytest.raises(FormatError) as caught:
        Workflow.from_structure(data)
    assert caught.value.subject == "stored workflow definition"
    assert caught.value.fix


def test_a_structure_of_an_impossible_graph_is_a_format_error() -> None:
    """Invariant 7."""
    with pytest.raises(FormatError):
        Workflow.from_structure(b'{"name":"w","start_at":"a","steps":[]}')


@pytest.mark.parametrize(
    "step",
    [
        b'{"name":"a","task":"a","catch":[]}',
        b'{"name":"a","task":"a","edges":[{"step":"a","condition":"x"}]}',
        b'{"name":"a","kind":"join","join":{"branches":["x"],"count":1},"edges":[{"step":"a","branch":"x"}]}',
        b'{"name":"a","kind":"sleep","sleep":{"duration_ms":1,"jitter":1}}',
        b'{"name":"a","kind":"wait_signal","wait_signal":{"signal":"s","topic":"t"}}',
        b'{"name":"a","kind":"pause","pause":{"until":1},"edges":[{"step":"a"}]}',
    ],
    ids=["step", "edge", "join", "sleep", "wait", "pause"],
)
def test_a_structure_of_a_newer_version_is_a_format_error(step: bytes) -> None:
    """Invariant 7: a condition that is not known here must not be dropped."""
    with pytest.raises(FormatError):
        Workflow.from_structure(b'{"name":"w","start_at":"a","steps":[' + step + b"]}")


def test_a_structure_nested_too_deep_is_a_format_error() -> None:
    """Invariant 38."""
    deep = b'{"name":"a","task":"a","x":' + b"[" * 100_000 + b"}"
    with pytest.raises(FormatError):
        Workflow.from_structure(b'{"name":"w","start_at":"a","steps":[' + deep + b"]}")
