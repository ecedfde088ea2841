"""Effects: what must happen next, in the imperative. They follow from the state alone (`run.owed`)."""

import msgspec


class StartAttempt(msgspec.Struct, frozen=True, gc=False):
    """Call the task of a step."""

    branch: str
    step: str
    visit: int
    attempt: int


class ArmTimer(msgspec.Struct, frozen=True):
    """Carry out `then` when the store's clock reaches `due_at_ms`, never earlier."""

    due_at_ms: int
    then: StartAttempt


Effect = StartAttempt | ArmTimer
