"""What callers are told, held against what really was in the store at some time while they asked."""

from collections.abc import Callable, Sequence

from holdfast.codecs import json as codec
from holdfast.testing.simulator.checks import Checks
from holdfast.testing.simulator.journals import Shadow
from holdfast.testing.simulator.programs import Program
from holdfast.testing.simulator.world import World


class Answers:
    """Judges answers. `since_s` is always when the caller first asked, in whatever life of its process."""

    def __init__(self, world: World, checks: Checks) -> None:
        """Args: where wrong ones are kept, and who has watched the store."""
        self._world = world
        self._checks = checks

    def _any(self, run_id: str, since_s: float, holds: Callable[[Shadow], bool]) -> bool:
        return any(each.lived(since_s) and holds(each) for each in self._checks.archive[run_id])

    def _judge(self, holds: bool, text: str) -> None:  # noqa: FBT001 - like assert
        if not holds:
            self._world.problem(f"a caller was told {text}, wrongly")

    def absent(self, run_id: str, since_s: float) -> None:
        """There is no such run."""
        there_since_s = float("inf")
        ended_s: float | None = None
        for shadow in reversed(self._checks.archive[run_id]):
            if shadow.ended_s != ended_s:
                break
            there_since_s = ended_s = shadow.began_s
        self._judge(there_since_s >= since_s, f"that {run_id} is not there")

    def is_in(self, run_id: str, statuses: Sequence[str], since_s: float) -> None:
        """The run has one of these statuses."""
        holds = self._any(run_id, since_s, lambda each: each.was(statuses, since_s))
        self._judge(holds, f"that {run_id} is {' or '.join(statuses)}")

    def exists(self, run_id: str, since_s: float) -> None:
        """The id is taken."""
        self._judge(self._any(run_id, since_s, lambda _: True), f"that {run_id} exists")

    def is_run(
        self, run_id: str, workflow: str, value: object, since_s: float, *, is_other: bool = False
    ) -> None:
        """A run of that id has this workflow and this input; or it does not."""

        def is_it(each: Shadow) -> bool:
            is_same = each.run.workflow == workflow and each.ordered == codec.encode(value)
            return is_same is not is_other

        text = f"that {run_id} is {'not ' * is_other}with {value}"
        self._judge(self._any(run_id, since_s, is_it), text)

    def has_output(self, run_id: str, output: object) -> None:
        """The run has come to that."""
        self._judge(self._any(run_id, 0.0, lambda each: output in each.outputs), f"{run_id} gives {output!r}")

    def has_signal(self, run_id: str, given: str, name: str, payload: object, since_s: float) -> None:
        """Invariants 19 and 22: the signal is stored."""
        message = (name, codec.encode(payload))
        holds = self._any(run_id, since_s, lambda each: each.mail.ids.get(given) == message)
        self._judge(holds, f"that {run_id} has signal {given}")

    def has_control(self, run_id: str, by: str, since_s: float) -> bool:
        """Whether it was recorded or stored what somebody wanted."""
        return self._any(run_id, since_s, lambda each: by in each.asked)

    def is_paused(self, run_id: str, by: str, branch: str, since_s: float) -> None:
        """Invariant 31: it is paused, or will be before it does anything."""
        known = self.has_control(run_id, by, since_s)
        known = known or self._any(run_id, since_s, lambda each: each.was_paused(branch, since_s))
        self._judge(known, f"that {branch or run_id} is paused")

    def is_unpaused(self, run_id: str, by: str, branch: str, since_s: float) -> None:
        """It goes on, or will."""
        known = self.has_control(run_id, by, since_s)
        known = known or self._any(
            run_id, since_s, lambda each: each.was_paused(branch, since_s, is_paused=False)
        )
        self._judge(known, f"that {branch or run_id} goes on")

    def is_cancelled(self, run_id: str, by: str, since_s: float) -> None:
        """Invariant 30: it is cancelled, or will be and cannot end otherwise (`Shadow` watches that)."""
        known = self.has_control(run_id, by, since_s)
        known = known or self._any(run_id, since_s, lambda each: each.was(["cancelled"], since_s))
        self._judge(known, f"that {run_id} is cancelled")

    def is_reopened(self, run_id: str, by: str, since_s: float) -> None:
        """It goes on where it failed."""
        self._judge(self.has_control(run_id, by, since_s), f"that {run_id} is tried again")

    def may_restart(self, run_id: str) -> None:
        """Somebody asks for another run in its place."""
        self._checks.restarts.add(run_id)

    def is_removed(self, run_id: str, since_s: float) -> None:
        """A run of that id is gone."""
        self._judge(
            self._any(run_id, since_s, lambda each: each.ended_s is not None), f"that {run_id} is deleted"
        )

    def descendant(self, run_id: str, number: int) -> tuple[str, Program] | None:
        """One of the runs that a run, or one of these, has started; not for judging."""
        archive = self._checks.archive
        there = [
            each for each in archive if each.startswith(f"{run_id}/") and archive[each][-1].ended_s is None
        ]
        if not there:
            return None
        found = there[number % len(there)]
        return found, self._checks.programs[archive[found][-1].run.workflow]

    def status_of(self, run_id: str) -> str:
        """What the row says now, "" where there is none: for counting, not for judging."""
        shadows = self._checks.archive[run_id]
        return shadows[-1].statuses[-1][1] if shadows and shadows[-1].ended_s is None else ""
