"""How failures are answered: retry policies. Policies are no part of a workflow's fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.definition.duration import DURATION_MAX_MS, Duration, to_ms
from holdfast.errors import UsageError

ALL = "all"
TASK_FAILED = "task_failed"
TIMEOUT = "timeout"
FATAL = "fatal"
ROOTS = ("Exception", "BaseException")
"""Classes that every error derives from: as patterns they mean `all`."""
SWEPT = ("completed", "cancelled", "failed", "blocked")
"""Statuses that a retention may name; a plain duration is for the first two."""
Retention = Duration | Mapping[str, Duration]
"""How long runs are kept after their end: one duration, or one for each status."""
RETENTION_MIN_MS = 1_000
RETRIES_MAX = 10_000
"""Retries of one policy: beyond this a step is a loop, and says so better as one."""
BACKOFF_RATE_MAX = 1_000


def retention_ms(retention: Retention | None) -> Mapping[str, int]:
    """How long runs are kept after they were changed last, in ms by status; those not named are kept for ever.

    A plain duration is for completed and cancelled runs (semantics row 58).

    Raises:
        UsageError: No duration, one under a second, or no such status.
    """
    if retention is None:
        return {}
    given = retention if isinstance(retention, Mapping) else dict.fromkeys(SWEPT[:2], retention)
    kept = {status: to_ms(duration, what="retention") for status, duration in given.items()}
    if any(status not in SWEPT or ms < RETENTION_MIN_MS for status, ms in kept.items()):
        raise UsageError(
            what=f"retention {retention!r} is not from 1 s on, or for another status than {', '.join(SWEPT)}",
            fix='write for example retention="30d" or retention={"completed": "30d", "failed": "90d"}',
        )
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try a step again after the failures that `error_equals` names (semantics row 23).

    The k-th retry waits `base_delay * backoff_rate ** (k - 1)`, at most `max_delay`; with jitter FULL a
    random part of that. Each policy of a step has a budget of its own.

    Attributes:
        error_equals: `"all"` (everything but `"fatal"`), `"task_failed"` (nor `"timeout"`), type names, or
            exception classes, which match their subclasses too.
        max_retries: 0 to `RETRIES_MAX`, not counting the first attempt.
        base_delay: Wait before the first retry.
        max_delay: No wait is longer.
        backoff_rate: Factor from one wait to the next, 1 to `BACKOFF_RATE_MAX`.
        jitter_strategy: FULL waits a random part of each delay, NONE all of it.

    Raises:
        UsageError: A bound is not kept.
    """

    error_equals: tuple[str | type[BaseException], ...] = (ALL,)
    max_retries: int = 3
    base_delay: Duration = 1
    max_delay: Duration | None = None
    backoff_rate: float = 2.0
    jitter_strategy: Literal["NONE", "FULL"] = "NONE"

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        to_ms(self.base_delay, what="base_delay")
        to_ms(self.max_delay or 0, what="max_delay")
        if type(self.max_retries) is not int or not 0 <= self.max_retries <= RETRIES_MAX:
            raise UsageError(
                what=f"max_retries {self.max_retries!r} is not a number from 0 to {RETRIES_MAX}",
                fix="more than that is a loop",
            )
        if not 1 <= self.backoff_rate <= BACKOFF_RATE_MAX:
            raise UsageError(
                what=f"backoff_rate {self.backoff_rate!r} is not from 1 to {BACKOFF_RATE_MAX}",
                fix="1 keeps the delay constant",
            )
        if self.jitter_strategy not in {"NONE", "FULL"}:
            raise UsageError(
                what=f"jitter_strategy {self.jitter_strategy!r} is not known",
                fix='use "NONE" or "FULL"',
            )
        patterns = () if isinstance(self.error_equals, str) else self.error_equals
        if not patterns or not all(isinstance(each, str | type) for each in patterns):
            raise UsageError(
                what=f"error_equals {self.error_equals!r} is not a tuple of patterns",
                fix='write for example error_equals=("all",)',
            )

    @property
    def pattern(self) -> str:
        """What this policy's budget is counted under in the journal; independent of its place."""
        return ",".join(self._names())

    def matches(self, types: tuple[str, ...]) -> bool:
        """Whether a failure with these type names (its own first, then its bases) is meant."""
        return any(_pattern_matches(name, types) for name in self._names())

    def delay_ms(self, *, retry: int, chance: float) -> int:
        """The wait before retry number `retry` (from 1) in ms; `chance` in [0, 1) feeds the jitter."""
        ceiling = DURATION_MAX_MS if self.max_delay is None else to_ms(self.max_delay)
        try:
            wait = min(to_ms(self.base_delay) * self.backoff_rate ** (retry - 1), ceiling)
        except OverflowError:
            wait = ceiling
        return int(wait * chance) if self.jitter_strategy == "FULL" else int(wait)

    def _names(self) -> tuple[str, ...]:
        return tuple(p if isinstance(p, str) else p.__name__ for p in self.error_equals)


def _pattern_matches(pattern: str, types: tuple[str, ...]) -> bool:
    if pattern in {ALL, *ROOTS}:
        return FATAL not in types
    if pattern == TASK_FAILED:
        return FATAL not in types and TIMEOUT not in types
    return pattern in types
