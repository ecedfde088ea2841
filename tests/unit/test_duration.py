"""Durations and moments as users write them (semantics rows 2 and 30, invariant 28)."""

import math
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.definition.duration import DURATION_MAX_MS, Duration, instant_ms, to_ms
from holdfast.errors import UsageError

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
HUNDRED_YEARS = timedelta(days=36_525)


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("250ms", 250),
        ("30s", 30 * SECOND),
        ("5m", 5 * MINUTE),
        ("2h", 2 * HOUR),
        ("3d", 3 * DAY),
        ("1h30m", 90 * MINUTE),
        ("1d2h3m4s5ms", DAY + 2 * HOUR + 3 * MINUTE + 4 * SECOND + 5),
        ("1.5s", 1_500),
        ("0.5h", 30 * MINUTE),
        ("90m", 90 * MINUTE),
        ("0s", 0),
        (0, 0),
        (0.0, 0),
        (30, 30 * SECOND),
        (2.5, 2_500),
        (timedelta(0), 0),
        (timedelta(minutes=2), 2 * MINUTE),
        (timedelta(days=1, milliseconds=1), DAY + 1),
    ],
)
def test_a_duration_is_text_or_seconds_or_a_timedelta(written: Duration, ms: int) -> None:
    assert to_ms(written) == ms


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (0.000_1, 1),
        ("0.1ms", 1),
        (1.000_1, 1_001),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=1, microseconds=1), 2),
        (5e-324, 1),
    ],
)
def test_a_part_of_a_millisecond_is_a_whole_one(written: Duration, ms: int) -> None:
    """Nothing is ever early (invariant 24)."""
    assert to_ms(written) == ms


@pytest.mark.parametrize("written", [HUNDRED_YEARS, "36525d", HUNDRED_YEARS.total_seconds()])
def test_a_hundred_years_are_a_duration(written: Duration) -> None:
    """Invariant 28."""
    assert to_ms(written) == HUNDRED_YEARS // timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "written",
    [
        -1,
        -0.001,
        "-1s",
        timedelta(microseconds=-1),
        timedelta.min,
        math.nan,
        math.inf,
        -math.inf,
        "infs",
        "nans",
        "9" * 400 + "s",
        timedelta(days=37_000),
        timedelta.max,
        "37000d",
        1e300,
        (DURATION_MAX_MS + 1) / SECOND,
        True,
        False,
        None,
        b"1s",
        [],
        1j,
        "",
        "30",
        "s",
        "30S",
        " 30s",
        "30s ",
        "30 s",
        "30s\n",
        "1h 30m",
        "1h30",
        "1e3s",
        "1_000s",
        ".5s",
        "1.s",
        "1w",
        "+1s",
    ],
    ids=lambda written: repr(written)[:20],
)
def test_what_is_no_duration_is_refused(written: Duration) -> None:
    """Invariant 28: negative, NaN and infinite ones are no durations, nor is more than 100 years."""
    with pytest.raises(UsageError) as caught:
        to_ms(written, what="timeout")
    assert caught.value.what.startswith(f"timeout {written!r}")
    assert "30s" in caught.value.fix


def test_a_whole_number_beyond_all_floats_is_refused_like_any_other() -> None:
    with pytest.raises(UsageError):
        to_ms(10**400)


@pytest.mark.parametrize(
    ("moment", "ms"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2030, 1, 1, tzinfo=UTC), 1_893_456_000_000),
        (datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 1_893_456_000_000),
        (datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 1),
        (datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC), 1_001),
    ],
    ids=str,
)
def test_a_moment_is_ms_since_the_epoch_and_never_early(moment: datetime, ms: int) -> None:
    """Row 30, invariant 24."""
    assert instant_ms(moment, what="until") == ms


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001 - that is the mistake
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        "2030-01-01T00:00:00Z",
        1_893_456_000,
        None,
    ],
    ids=repr,
)
def test_what_is_no_moment_is_refused(moment: datetime) -> None:
    with pytest.raises(UsageError) as caught:
        instant_ms(moment, what="until")
    assert caught.value.what.startswith(f"until {moment!r}")
    assert "tzinfo=UTC" in caught.value.fix


@given(st.integers(0, DURATION_MAX_MS))
def test_whole_milliseconds_are_exact_in_text_and_timedelta(ms: int) -> None:
    assert to_ms(f"{ms}ms") == ms
    assert to_ms(timedelta(milliseconds=ms)) == ms


@given(
    st.tuples(
        st.integers(0, 30_000),
        st.integers(0, 1_000),
        st.integers(0, 1_000),
        st.integers(0, 1_000),
        st.integers(0, 1_000),
    )
)
def test_the_parts_of_a_sum_add_up(parts: tuple[int, int, int, int, int]) -> None:
    days, hours, minutes, seconds, ms = parts
    whole = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=ms)
    text = f"{days}d{hours}h{minutes}m{seconds}s{ms}ms"
    assert to_ms(text) == to_ms(whole)


@given(st.floats(0, DURATION_MAX_MS / SECOND))
def test_seconds_are_never_rounded_down_and_by_less_than_a_millisecond(seconds: float) -> None:
    exact = Fraction(seconds) * SECOND
    noise = Fraction(math.ulp(seconds * SECOND))
    assert exact - noise <= to_ms(seconds) < exact + 1 + noise
