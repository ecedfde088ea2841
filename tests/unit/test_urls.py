"""Store URLs: what is told of them, and what is refused."""

import pytest

from holdfast.errors import UsageError
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.urls import is_postgres, store_at, without_ours, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:secret@host:1/orders?schema=x", "postgresql://ann@host:1/orders?schema=x"),
        ("postgresql://ann:se:cret@host", "postgresql://ann@host"),
        (
            "postgres://host/orders?user=ann&password=secret&b=1",
            "postgres://host/orders?user=ann&password=&b=1",
        ),
        ("postgre://ann:secret@host", "postgre://ann@host"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
    ],
)
def test_nobody_sees_a_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_mistyped_url_is_refused_without_its_password() -> None:
    with pytest.raises(UsageError, match="no URL of a store") as refused:
        store_at("postgre://ann:secret@host", worker="auto", clock=SystemClock())
    assert "secret" not in str(refused.value)


def test_our_options_are_taken_out_of_a_url_and_the_rest_is_the_stores() -> None:
    url, ours = without_ours("postgresql://host/orders?schema=x&migrate=on&listen_url=postgresql%3A%2F%2Fh")
    assert url == "postgresql://host/orders?schema=x"
    assert ours == {"migrate": "on", "listen_url": "postgresql://h"}
    assert is_postgres(url)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("migrate=maybe", "migrate=on or migrate=off"),
        ("hints=1", "hints=on or hints=off"),
        ("schema=A", "schema"),
    ],
)
def test_an_option_that_cannot_be_is_refused(option: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        store_at(f"postgresql://host/orders?{option}", worker="auto", clock=SystemClock())


def test_a_client_of_a_server_drives_nothing() -> None:
    for worker, drives in (("auto", True), (True, True), (False, False)):
        assert store_at("postgresql://host/x", worker=worker, clock=SystemClock()).may_drive is drives  # type: ignore[arg-type]
