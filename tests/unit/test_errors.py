"""The tree of errors: one file, stable codes, facts as attributes, messages that say what to do."""

import copy
import inspect
import pickle
import re

import pytest

from holdfast import errors
from holdfast.core.entries import Failure
from holdfast.errors import HoldfastError, Problem, WorkflowError

PROBLEM = Problem(step="ship", path="edges[0]", code="unknown_step", message="leads nowhere")
FAILURE = Failure("CardError", "declined", ("CardError",), step="charge")
# Facts of an example of each error, and its message word for word.
OPERATION = {"operation": "charge#1", "failure": Failure("ValueError", "no card", ("ValueError",))}
EXAMPLES: dict[type[HoldfastError], tuple[dict[str, object], str]] = {
    errors.DefinitionError: (
        {"subject": "workflow 'order'", "problems": (PROBLEM,)},
        "workflow 'order' cannot be built:\n  - step 'ship': leads nowhere [unknown_step]",
    ),
    errors.UsageError: ({"what": "x is 5", "fix": "make it 6"}, "x is 5; make it 6"),
    errors.WorkflowNotFoundError: (
        {"workflow": "order", "known": ("b", "a")},
        (
            "no workflow 'order' is known here (known: a, b); "
            "pass it in workflows=[...] of the engine, or start a worker that has it once"
        ),
    ),
    errors.InputError: (
        {"workflow": "order", "step": "a", "reason": "Expected `int`, got `str` - at `$`", "fix": "pass one"},
        "the input of workflow 'order' does not fit step 'a': Expected `int`, got `str` - at `$`; pass one",
    ),
    errors.RunNotFoundError: (
        {"run_id": "order-42"},
        "there is no run 'order-42' in this store; `holdfast list` shows the ids",
    ),
    errors.RunExistsError: (
        {"run_id": "order-42", "workflow": "order", "status": "running"},
        (
            "run 'order-42' exists already (workflow 'order', running); choose another id, "
            'or pass on_conflict="use_existing" to get that run or "restart" to replace it'
        ),
    ),
    errors.RunConflictError: (
        {"run_id": "order-42", "difference": "input"},
        (
            "run 'order-42' exists already with another input; choose another id, "
            'or pass on_conflict="restart" to replace it'
        ),
    ),
    errors.RunStateError: (
        {
            "run_id": "order-42",
            "status": "completed",
            "what": "cannot be paused",
            "fix": "it is over",
        },
        "run 'order-42' is completed and cannot be paused; it is over",
    ),
    errors.BranchNotFoundError: (
        {"run_id": "order-42", "branch": "pay", "known": ("main", "ship")},
        "run 'order-42' has no unfinished branch 'pay'; it has: main, ship",
    ),
    errors.SignalLimitError: (
        {"run_id": "order-42", "limit": 10_000},
        (
            "run 'order-42' has 10000 signals pending, which is the limit; let it receive some first, "
            "or send several things in one payload"
        ),
    ),
    errors.RunWaitingError: (
        {"run_id": "order-42", "waiting": ("for signal 'a'", "for signal 'b'")},
        (
            "run 'order-42' waits for signal 'a', and for signal 'b', and in run() nobody can give it that; "
            "start it with an Engine, whose handle can"
        ),
    ),
    errors.ResultTimeoutError: (
        {"run_id": "order-42", "timeout_ms": 30_000, "status": "running"},
        "run 'order-42' was still running after 30000 ms; it goes on, ask again or look at handle.status()",
    ),
    errors.RunBlockedError: (
        {"run_id": "order-42", "reason": "its journal is damaged"},
        "run 'order-42' is blocked: its journal is damaged; mend that, its journal is kept as it is",
    ),
    errors.TaskError: (
        {"run_id": "order-42", "status": "failed", "failure": FAILURE},
        "run 'order-42' failed: CardError in step 'charge': declined",
    ),
    errors.StoreUnavailableError: (
        {"store": "postgresql://host/db", "reason": "connection refused"},
        "the store postgresql://host/db is not available: connection refused; asking again may work",
    ),
    errors.StoreOpenError: (
        {"path": "/data/a.db", "reason": "no such directory"},
        "/data/a.db cannot be opened: no such directory; check that its directory exists and can be written",
    ),
    errors.StoreOwnedError: (
        {"path": "/data/a.db", "owner": "process 7"},
        (
            "/data/a.db is owned by another worker (process 7); stop that worker, or open it as a client "
            'with worker="auto" or worker=False: what you start then runs there'
        ),
    ),
    errors.StoreConnectError: (
        {"store": "postgresql://host/db", "reason": "connection refused"},
        (
            "the store postgresql://host/db cannot be opened: connection refused; "
            "check its host, port, user, password, database and rights"
        ),
    ),
    errors.StoreRefusedError: (
        {"reason": "too big"},
        "the store can not hold this value: too big; change it, or keep it elsewhere and pass its address",
    ),
    errors.LeaseLostError: (
        {"worker": "7-abc"},
        (
            "the lease of worker '7-abc' has expired; others go on with its runs, and this process takes "
            "a new identity: nothing is to be done here"
        ),
    ),
    errors.OperationError: (OPERATION, "charge#1 failed: ValueError: no card"),
    errors.StepError: (OPERATION, "charge#1 failed: ValueError: no card"),
    errors.StepTimeoutError: (OPERATION, "charge#1 failed: ValueError: no card"),
    errors.ChildError: ({**OPERATION, "run_id": "order-42/a"}, "charge#1 failed: ValueError: no card"),
    errors.ChildTimeoutError: ({**OPERATION, "run_id": "order-42/a"}, "charge#1 failed: ValueError: no card"),
    errors.OperationTimeoutError: (OPERATION, "charge#1 failed: ValueError: no card"),
    errors.SignalTimeoutError: (OPERATION, "charge#1 failed: ValueError: no card"),
    errors.OperationCancelledError: (
        {"operation": "item 3"},
        "item 3 was cancelled: enough of the others were done",
    ),
    errors.FormatError: (
        {"subject": "entry 7", "reason": "damaged", "fix": "restore it"},
        "entry 7: damaged; restore it",
    ),
    errors.CodecError: (
        {"path": "$.a[1]", "reason": "nan has no JSON form", "fix": "leave it out"},
        "nan has no JSON form - at `$.a[1]`; leave it out",
    ),
}
# What a program may rely on for ever.
CODES = {
    "HoldfastError": "holdfast",
    "DefinitionError": "definition",
    "UsageError": "usage",
    "RunError": "run",
    "WorkflowNotFoundError": "workflow_not_found",
    "InputError": "input",
    "RunNotFoundError": "run_not_found",
    "RunExistsError": "run_exists",
    "RunConflictError": "run_conflict",
    "RunStateError": "run_state",
    "BranchNotFoundError": "branch_not_found",
    "SignalLimitError": "signal_limit",
    "RunWaitingError": "run_waiting",
    "ResultTimeoutError": "result_timeout",
    "RunBlockedError": "run_blocked",
    "TaskError": "task",
    "OperationError": "operation",
    "StepError": "step",
    "StepTimeoutError": "step_timeout",
    "ChildError": "child",
    "ChildTimeoutError": "child_timeout",
    "OperationTimeoutError": "operation_timeout",
    "SignalTimeoutError": "signal_timeout",
    "OperationCancelledError": "operation_cancelled",
    "StoreError": "store",
    "StoreUnavailableError": "store_unavailable",
    "StoreOpenError": "store_open",
    "StoreOwnedError": "store_owned",
    "StoreRefusedError": "store_refused",
    "StoreConnectError": "store_connect",
    "LeaseLostError": "lease_lost",
    "FormatError": "format",
    "CodecError": "codec",
}
ADVICE = {
    "UsageError": "make it 6",
    "WorkflowNotFoundError": "pass it in workflows=",
    "RunNotFoundError": "`holdfast list`",
    "RunExistsError": "choose another id, or pass on_conflict",
    "RunConflictError": "choose another id",
    "RunStateError": "it is over",
    "BranchNotFoundError": "it has: main, ship",
    "SignalLimitError": "let it receive some first",
    "RunWaitingError": "start it with an Engine",
    "ResultTimeoutError": "ask again",
    "RunBlockedError": "mend that",
    "StoreUnavailableError": "asking again may work",
    "StoreOpenError": "check that its directory exists",
    "StoreConnectError": "check its host",
    "StoreOwnedError": "stop that worker, or open it as a client",
    "LeaseLostError": "nothing is to be done",
    "FormatError": "restore it",
    "InputError": "pass one",
    "StoreRefusedError": "pass its address",
    "CodecError": "leave it out",
}
BRANCHES = {"HoldfastError", "RunError", "StoreError"}
TREE_LINE = re.compile(r"^ {4}((?:\|   )*)(?:[|`]-- )?(\w+Error)\b", re.MULTILINE)
MADE = [(kind, facts, message) for kind, (facts, message) in EXAMPLES.items()]
IDS = [kind.__name__ for kind in EXAMPLES]


def classes() -> dict[str, type[Exception]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in members if issubclass(kind, Exception) and name.endswith("Error")}


def test_the_tree_on_top_lists_exactly_the_errors_that_exist() -> None:
    drawn = [name for _, name in TREE_LINE.findall(errors.__doc__ or "")]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == set(classes())


def test_the_tree_on_top_shows_whose_child_an_error_is() -> None:
    parents = {"HoldfastError": "Exception", "WorkflowError": "Exception"}
    above = ["HoldfastError"]
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"^ {4}((?:\|   )*)[|`]-- (\w+Error)\b", line)
        if drawn is not None:
            depth = len(drawn[1]) // 4
            parents[drawn[2]] = above[depth]
            above[depth + 1 :] = [drawn[2]]
    assert {name: kind.__bases__[0].__name__ for name, kind in classes().items()} == parents


def test_every_error_has_an_example() -> None:
    own = {name for name, kind in classes().items() if issubclass(kind, HoldfastError)}
    assert own - BRANCHES == set(IDS)


def test_codes_are_stable_and_each_means_one_error() -> None:
    found = {name: kind.__dict__["code"] for name, kind in classes().items() if issubclass(kind, HoldfastError)}
    assert found == CODES
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize(("kind", "facts", "message"), MADE, ids=IDS)
def test_an_error_says_what_happened_and_keeps_its_facts(
    kind: type[HoldfastError], facts: dict[str, object], message: str
) -> None:
    error = kind(**facts)  # type: ignore[arg-type]
    assert str(error) == message
    assert error.args == (message,)
    assert {name: getattr(error, name) for name in facts} == facts
    assert error.facts == facts


@pytest.mark.parametrize("name", ADVICE)
def test_an_error_says_what_to_do(name: str) -> None:
    """Rule 9 of the house."""
    facts, _ = next(example for kind, example in EXAMPLES.items() if kind.__name__ == name)
    assert ADVICE[name] in str(classes()[name](**facts))


@pytest.mark.parametrize("kind", [errors.StoreRefusedError, errors.CodecError, errors.InputError])
def test_every_error_of_the_callers_doing_says_what_to_do(kind: type[HoldfastError]) -> None:
    """Rule 9 of the house."""
    facts, _ = EXAMPLES[kind]
    assert ";" in str(kind(**facts))  # type: ignore[arg-type]


def test_a_value_that_does_not_fit_is_to_be_changed_or_its_annotation() -> None:
    error = errors.CodecError(path="$", reason="Expected `int`, got `str`")
    assert str(error) == f"Expected `int`, got `str` - at `$`; {errors.MAKE_IT_FIT}"
    assert error.fix == errors.MAKE_IT_FIT


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("kind", "facts", "message"), MADE, ids=IDS)
def test_an_error_survives_pickling(
    kind: type[HoldfastError], facts: dict[str, object], message: str, protocol: int
) -> None:
    again = pickle.loads(pickle.dumps(kind(**facts), protocol))  # type: ignore[arg-type]  # noqa: S301 - made here
    assert type(again) is kind
    assert str(again) == message
    assert {name: getattr(again, name) for name in facts} == facts
    assert again.code == kind.code


@pytest.mark.parametrize(("kind", "facts", "message"), MADE, ids=IDS)
def test_an_error_can_be_copied(kind: type[HoldfastError], facts: dict[str, object], message: str) -> None:
    again = copy.deepcopy(kind(**facts))  # type: ignore[arg-type]
    assert (type(again), str(again), again.facts) == (kind, message, facts)


@pytest.mark.parametrize("name", sorted(BRANCHES))
def test_a_branch_of_the_tree_survives_pickling_too(name: str) -> None:
    error = classes()[name]("of its own")
    assert str(pickle.loads(pickle.dumps(error))) == "of its own"  # noqa: S301 - made here


def test_notes_survive_pickling() -> None:
    error = errors.UsageError(what="x", fix="y")
    error.add_note("seen in step 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen in step 3"]  # noqa: S301 - made here


def test_no_workflow_known_is_said_as_none() -> None:
    assert "(known: none)" in str(errors.WorkflowNotFoundError(workflow="w", known=[]))


def test_no_branch_that_is_not_over_is_said_as_none() -> None:
    assert str(errors.BranchNotFoundError(run_id="r", branch="x", known=[])).endswith("it has: none")


def test_a_cancelled_run_ended_without_a_failure() -> None:
    assert str(errors.TaskError(run_id="r", status="cancelled", failure=None)) == "run 'r' cancelled"


def test_problems_are_equal_by_their_facts() -> None:
    same = Problem(step="ship", path="edges[0]", code="unknown_step", message="leads nowhere")
    other = Problem(step="ship", path="edges[1]", code="unknown_step", message="leads nowhere")
    assert same == PROBLEM
    assert len({PROBLEM, same, other}) == 2
    assert other != PROBLEM
    assert PROBLEM != "ship"
    assert pickle.loads(pickle.dumps(PROBLEM)) == PROBLEM  # noqa: S301 - made here


def test_a_problem_of_no_step_names_none() -> None:
    assert repr(Problem(step="", path="", code="empty", message="nothing there")) == "nothing there [empty]"


def test_a_task_chooses_the_type_of_its_failure() -> None:
    error = WorkflowError("declined", type="card", details={"code": 51})
    assert (str(error), error.type, error.details) == ("declined", "card", {"code": 51})
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (str(again), again.type, again.details) == ("declined", "card", {"code": 51})


def test_a_task_error_of_a_body_is_none_of_the_engines() -> None:
    assert not issubclass(WorkflowError, HoldfastError)
    assert (WorkflowError("x").type, WorkflowError("x").details) == ("WorkflowError", None)
