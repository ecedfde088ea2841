"""The parts of a workflow's graph: steps, edges, joins and waits. Immutable, and JSON through msgspec.

Defaults are left out of the JSON, so that a field that is added later, with a default, changes no fingerprint.
"""

from datetime import datetime
from typing import Literal

import msgspec

from holdfast.definition.duration import Duration, instant_ms, to_ms

StepKind = Literal["task", "fork", "join", "sleep", "wait_signal", "pause"]


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


class Sleep(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long a sleep step waits: one of the two (semantics row 30).

    Attributes:
        duration_ms: Counted from the commit that brings the branch there.
        until_ms: A moment in ms since 1970-01-01 UTC; one that has passed does not wait.
    """

    duration_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def of(cls, duration: Duration | None = None, *, until: datetime | None = None) -> "Sleep":
        """From a duration such as "3d", or an aware datetime.

        Raises:
            UsageError: No duration, or a datetime without a time zone.
        """
        return cls(
            None if duration is None else to_ms(duration),
            None if until is None else instant_ms(until, what="until"),
        )


class WaitSignal(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a wait step waits for (semantics row 29). Its payload becomes the branch's value.

    Attributes:
        signal: Name of the signal.
        timeout_ms: Counted from the commit that brings the branch there; None waits for ever.
        on_timeout: Step to go to when the time is up; None fails the run with `timeout`.
    """

    signal: str
    timeout_ms: int | None = None
    on_timeout: str | None = None

    @classmethod
    def of(cls, signal: str, *, timeout: Duration | None = None, on_timeout: str | None = None) -> "WaitSignal":
        """With the time-out as people write it, such as "30d".

        Raises:
            UsageError: The time-out is no duration.
        """
        return cls(signal, None if timeout is None else to_ms(timeout, what="timeout"), on_timeout)


class Pause(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A pause step (semantics row 31): the branch goes on to the next step and is paused there.

    Attributes:
        reason: For whoever is to unpause it.
    """

    reason: str = ""


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One node: exactly one of a task call, a fork (edges only), a join, a sleep, a wait, a pause.

    Attributes:
        name: Unique in its workflow, 1 to 255 bytes.
        kind: `task` calls `task`; `fork` only starts branches; `join`, `sleep`, `wait_signal` and `pause` wait
            as the field of the same name says.
        task: Name of the task, for kind `task`.
        join, sleep, wait_signal, pause: For the kind of that name.
        edges: All of them are followed; none ends the branch.
    """

    name: str
    kind: StepKind = "task"
    task: str | None = None
    join: Join | None = None
    edges: tuple[Edge, ...] = ()
    sleep: Sleep | None = None
    wait_signal: WaitSignal | None = None
    pause: Pause | None = None

    def targets(self) -> list[str]:
        """Names of the steps that may come next."""
        targets = [edge.step for edge in self.edges]
        if self.wait_signal is not None and self.wait_signal.on_timeout is not None:
            targets.append(self.wait_signal.on_timeout)
        return targets
