"""Effects: what must happen next, in the imperative. They follow from the state alone (`run.owed`)."""

import msgspec

from holdfast.core.events import DeadlinePassed, TimerFired


class StartAttempt(msgspec.Struct, frozen=True, gc=False):
    """Call the task of a step."""

    branch: str
    step: str
    visit: int
    attempt: int


class ArmTimer(msgspec.Struct, frozen=True):
    """Carry out `then`, or report it, when the store's clock reaches `due_at_ms`, never earlier.

    `branch` is whose timer it is, "" for the whole run's; `key` is that of the operation of its step, or "".
    """

    branch: str
    due_at_ms: int
    then: StartAttempt | TimerFired | DeadlinePassed
    key: str = ""


Effect = StartAttempt | ArmTimer
