"""Durations as users write them, integer milliseconds inside (semantics row 2)."""

import math
import re
from datetime import datetime, timedelta

from holdfast.errors import UsageError

Duration = timedelta | str | int | float

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
DURATION_MAX_MS = 100 * 366 * 86_400_000
"""100 years: longer waits are taken for a mistake in the unit."""


def to_ms(duration: Duration, *, what: str = "duration") -> int:
    """Turn a duration into milliseconds, rounded up so that nothing is ever early.

    Args:
        duration: `timedelta`, `"250ms" "30s" "5m" "2h" "3d"` and sums like `"1h30m"`, or seconds.
        what: Names the argument in the error.

    Returns:
        0 to `DURATION_MAX_MS`.

    Raises:
        UsageError: Not a duration, negative, NaN, infinite or longer than 100 years.
    """
    value = _raw_ms(duration)
    if value is None or not 0 <= value <= DURATION_MAX_MS:  # NaN and infinity fit no bounds either
        raise UsageError(
            what=f"{what} {duration!r} is not a duration from 0 to 100 years",
            fix='write a timedelta, seconds, or text like "250ms", "30s", "1h30m" or "3d"',
        )
    return math.ceil(value)


def instant_ms(moment: datetime, *, what: str) -> int:
    """A moment in ms since 1970-01-01 UTC, rounded up so that nothing is ever early.

    Raises:
        UsageError: It has no time zone, or is before 1970.
    """
    if not isinstance(moment, datetime) or moment.tzinfo is None or moment.timestamp() < 0:
        raise UsageError(
            what=f"{what} {moment!r} is not a datetime with a time zone from 1970 on",
            fix="write for example datetime(2030, 1, 1, 9, tzinfo=UTC)",
        )
    return math.ceil(moment.timestamp() * 1_000)


def _raw_ms(duration: object) -> float | None:
    if isinstance(duration, timedelta):
        return duration / timedelta(milliseconds=1)
    if isinstance(duration, str):
        return _parse(duration)
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        return None
    return duration * 1_000


def _parse(text: str) -> float | None:
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
