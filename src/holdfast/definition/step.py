"""The parts of a workflow's graph: steps, edges and joins. Immutable, and JSON through msgspec.

Defaults are left out of the JSON, so that a field that is added later, with a default, changes no fingerprint.
"""

from typing import Literal

import msgspec

StepKind = Literal["task", "fork", "join"]


class Edge(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a branch goes when a step is done.

    Attributes:
        step: Name of the next step.
        branch: Name of the branch that starts there; None lets the branch go on, or names it by number
            where several edges are followed (semantics row 9).
    """

    step: str
    branch: str | None = None


class Join(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a join step waits for: the named branches, all of them *completed* (semantics row 18).

    Attributes:
        branches: Names of declared branches; their outputs become the join's output, a dict in this order.
    """

    branches: tuple[str, ...]


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One node: exactly one of a task call, a fork (edges only), a join.

    Attributes:
        name: Unique in its workflow, 1 to 255 bytes.
        kind: `task` calls `task`; `fork` only starts branches; `join` waits as `join` says.
        task: Name of the task, for kind `task`.
        join: For kind `join`.
        edges: All of them are followed; none ends the branch.
    """

    name: str
    kind: StepKind = "task"
    task: str | None = None
    join: Join | None = None
    edges: tuple[Edge, ...] = ()
