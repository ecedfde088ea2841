"""Retry policies: bounds, patterns, delays; how long runs are kept (semantics rows 22, 23, 58)."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.definition.duration import DURATION_MAX_MS
from holdfast.definition.policies import BACKOFF_RATE_MAX, RETRIES_MAX, Retention, Retry, retention_ms
from holdfast.errors import UsageError


class PaymentError(Exception): ...


class CardError(PaymentError): ...


VALUE_ERROR = ("ValueError",)
TIMED_OUT = ("timeout",)
FATAL = ("fatal", "WorkflowError")
CARD_ERROR = ("CardError", "PaymentError")
RATES = st.floats(1, BACKOFF_RATE_MAX)


def test_an_empty_policy_says_what_most_want() -> None:
    policy = Retry()
    assert (policy.error_equals, policy.max_retries) == (("all",), 3)
    assert [policy.delay_ms(retry=k, chance=0.9) for k in (1, 2, 3)] == [1_000, 2_000, 4_000]


@pytest.mark.parametrize("retries", [0, 1, RETRIES_MAX])
def test_retries_go_from_none_to_the_bound(retries: int) -> None:
    assert Retry(max_retries=retries).max_retries == retries


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_retries": -1}, "max_retries -1"),
        ({"max_retries": RETRIES_MAX + 1}, f"max_retries {RETRIES_MAX + 1}"),
        ({"max_retries": True}, "max_retries True"),
        ({"backoff_rate": 0.99}, "backoff_rate 0.99"),
        ({"backoff_rate": BACKOFF_RATE_MAX + 1}, "backoff_rate"),
        ({"backoff_rate": math.nan}, "backoff_rate nan"),
        ({"backoff_rate": math.inf}, "backoff_rate inf"),
        ({"jitter_strategy": "full"}, "jitter_strategy 'full'"),
        ({"base_delay": -1}, "base_delay -1"),
        ({"base_delay": "soon"}, "base_delay 'soon'"),
        ({"base_delay": None}, "base_delay None"),
        ({"max_delay": -1}, "max_delay -1"),
        ({"max_delay": math.nan}, "max_delay nan"),
        ({"error_equals": ()}, "error_equals ()"),
        ({"error_equals": "all"}, "error_equals 'all'"),
    ],
    ids=str,
)
def test_a_policy_out_of_bounds_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Retry(**options)  # type: ignore[arg-type]
    assert caught.value.what.startswith(named)
    assert caught.value.fix


def test_a_pattern_that_is_neither_name_nor_class_is_refused() -> None:
    with pytest.raises(UsageError):
        assert Retry(error_equals=(5,)).pattern  # type: ignore[arg-type]


def test_retries_that_are_no_whole_number_are_refused() -> None:
    with pytest.raises(UsageError):
        Retry(max_retries="3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "meant", "others"),
    [
        ("all", [VALUE_ERROR, TIMED_OUT, CARD_ERROR], [FATAL]),
        ("task_failed", [VALUE_ERROR, CARD_ERROR], [TIMED_OUT, FATAL]),
        ("timeout", [TIMED_OUT], [VALUE_ERROR, FATAL, CARD_ERROR]),
        ("fatal", [FATAL], [VALUE_ERROR, TIMED_OUT, CARD_ERROR]),
        ("WorkflowError", [FATAL], [VALUE_ERROR, TIMED_OUT, CARD_ERROR]),
        ("CardError", [CARD_ERROR], [VALUE_ERROR, TIMED_OUT, FATAL]),
        (CardError, [CARD_ERROR], [VALUE_ERROR, ("PaymentError",)]),
        (PaymentError, [CARD_ERROR, ("PaymentError",)], [VALUE_ERROR, TIMED_OUT, FATAL]),
        ("PaymentError", [CARD_ERROR], [VALUE_ERROR]),
        ("valueerror", [], [VALUE_ERROR]),
    ],
    ids=str,
)
def test_a_pattern_means_what_row_22_says(
    pattern: str | type[BaseException],
    meant: list[tuple[str, ...]],
    others: list[tuple[str, ...]],
) -> None:
    policy = Retry(error_equals=(pattern,))
    assert [policy.matches(types) for types in meant] == [True] * len(meant)
    assert [policy.matches(types) for types in others] == [False] * len(others)


def test_one_of_several_patterns_is_enough() -> None:
    policy = Retry(error_equals=("timeout", PaymentError))
    assert policy.matches(CARD_ERROR)
    assert policy.matches(TIMED_OUT)
    assert not policy.matches(VALUE_ERROR)


def test_a_budget_is_counted_by_patterns_and_not_by_their_place() -> None:
    """Row 23: what is deployed may move a policy, or raise its bound, and the budget stays the same."""
    assert Retry(error_equals=("timeout", CardError)).pattern == "timeout,CardError"
    assert Retry(max_retries=1).pattern == Retry(max_retries=9, base_delay=9).pattern == "all"


def test_the_delay_grows_by_the_rate() -> None:
    policy = Retry(base_delay="100ms", backoff_rate=3)
    assert [policy.delay_ms(retry=k, chance=0) for k in (1, 2, 3, 4)] == [100, 300, 900, 2_700]


def test_a_rate_of_one_keeps_the_delay() -> None:
    policy = Retry(base_delay=5, backoff_rate=1)
    assert {policy.delay_ms(retry=k, chance=0) for k in (1, 2, 100, 10_000)} == {5_000}


def test_no_delay_is_longer_than_the_longest() -> None:
    policy = Retry(base_delay=1, max_delay=timedelta(seconds=3))
    assert [policy.delay_ms(retry=k, chance=0) for k in (1, 2, 3, 99)] == [1_000, 2_000, 3_000, 3_000]


def test_a_longest_delay_of_nothing_is_kept_too() -> None:
    assert Retry(base_delay=1, max_delay=0).delay_ms(retry=7, chance=0.5) == 0


def test_full_jitter_waits_a_part_of_the_delay() -> None:
    policy = Retry(base_delay=1, jitter_strategy="FULL")
    assert [policy.delay_ms(retry=3, chance=chance) for chance in (0, 0.25, 0.5)] == [0, 1_000, 2_000]


def test_a_small_rate_goes_on_growing_after_64_retries() -> None:
    policy = Retry(base_delay=1, backoff_rate=1.05)
    assert policy.delay_ms(retry=100, chance=0) == int(1_000 * 1.05**99)


@given(st.integers(1, RETRIES_MAX), RATES, st.integers(0, DURATION_MAX_MS), st.floats(0, 1))
def test_no_delay_overflows_or_falls_or_leaves_its_bounds(
    retry: int, rate: float, base_ms: int, chance: float
) -> None:
    base = timedelta(milliseconds=base_ms)
    policy = Retry(base_delay=base, backoff_rate=rate, max_retries=RETRIES_MAX)
    full = Retry(base_delay=base, backoff_rate=rate, jitter_strategy="FULL")
    delay_ms = policy.delay_ms(retry=retry, chance=chance)
    assert base_ms <= delay_ms <= DURATION_MAX_MS
    assert policy.delay_ms(retry=retry + 1, chance=chance) >= delay_ms
    assert 0 <= full.delay_ms(retry=retry, chance=chance) <= delay_ms


DAY = 86_400_000


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (None, {}),
        ({}, {}),
        ("30d", {"completed": 30 * DAY, "cancelled": 30 * DAY}),
        (timedelta(days=1), {"completed": DAY, "cancelled": DAY}),
        (1, {"completed": 1_000, "cancelled": 1_000}),
        ({"failed": "90d"}, {"failed": 90 * DAY}),
        (
            {"completed": "1d", "cancelled": 5, "failed": "2d", "blocked": timedelta(days=3)},
            {"completed": DAY, "cancelled": 5_000, "failed": 2 * DAY, "blocked": 3 * DAY},
        ),
    ],
    ids=str,
)
def test_a_retention_is_a_duration_or_one_for_each_status(written: Retention, kept: dict[str, int]) -> None:
    """Row 58: what is not named is kept for ever; failed runs are, unless they are named."""
    assert retention_ms(written) == kept


@pytest.mark.parametrize(
    "written",
    ["soon", -1, 0, 0.999, math.nan, {"running": "1d"}, {"completed": "0s"}, {"completed": None}, {"": 1}],
    ids=str,
)
def test_what_is_no_retention_is_refused(written: Retention) -> None:
    with pytest.raises(UsageError) as caught:
        retention_ms(written)
    assert caught.value.what.startswith("retention ")
    assert caught.value.fix


@pytest.mark.parametrize("root", [Exception, BaseException])
def test_a_root_of_all_errors_means_all(root: type[BaseException]) -> None:
    """Row 22."""
    assert Retry(error_equals=(root,)).matches(("ValueError",))
    assert Retry(error_equals=(root,)).matches(("timeout", "TimeoutError"))
    assert not Retry(error_equals=(root,)).matches(("fatal",))
