"""The approval example as a user would test it: thirty days in virtual time, and a crash at every commit.

Semantics rows 28, 29, 31 and 34.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.approval import flow as example
from examples.approval.flow import DECISION, Decision, Mail, Outcome, Request, approval
from holdfast.testing import TestEngine, crash_everywhere

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
LAPTOP = Request("buy a laptop", 1_400, "ada@example.org")
YES = Decision(is_approved=True, by="ada")
NO = Decision(is_approved=False, by="ada", comment="one is enough")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[Mail]:
    sent: list[Mail] = []
    monkeypatch.setattr(example, "send_mail", sent.append)
    return sent


async def test_approved_on_the_tenth_day_after_three_reminders(mails: list[Mail]) -> None:
    async with TestEngine(workflows=[approval]) as env:
        handle = await env.start(approval, LAPTOP)
        await env.advance("10d")
        assert len(env.calls("remind")) == 3
        await handle.signal(DECISION, YES)
        assert await handle.result() == Outcome("approved", "ada")
        assert len(env.calls("remind")) == 3
    assert [mail.to for mail in mails] == ["ada@example.org"] * 4
    assert len({mail.key for mail in mails}) == 4


async def test_expired_after_thirty_days_and_nine_reminders(mails: list[Mail]) -> None:
    async with TestEngine(workflows=[approval]) as env:
        begun = env.clock.now()
        handle = await env.start(approval, LAPTOP)
        assert (await handle.result()).status == "expired"
        assert (env.clock.now() - begun).days == 30
        assert len(env.calls("remind")) == 9
        days = [(entry.at - begun).days for entry in await handle.journal() if entry.kind == "WaitTimedOut"]
        assert days == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert len(mails) == 10


async def test_rejected_at_once_without_a_reminder(mails: list[Mail]) -> None:
    async with TestEngine(workflows=[approval]) as env:
        begun = env.clock.now()
        handle = await env.start(approval, LAPTOP)
        await handle.signal(DECISION, NO)
        assert await handle.result() == Outcome("rejected", "ada", "one is enough")
        assert env.clock.now() == begun
        assert env.calls("remind") == []
    assert len(mails) == 1


async def test_a_decision_in_the_last_moment_counts(mails: list[Mail]) -> None:
    async with TestEngine(workflows=[approval]) as env:
        handle = await env.start(approval, LAPTOP)
        await env.advance("29d23h59m59s")
        assert (await handle.status()).waiting[0].step == "wait_10"
        await handle.signal(DECISION, YES)
        assert (await handle.result()).status == "approved"
    assert len(mails) == 10


def test_no_crash_loses_a_reminder_or_sends_one_with_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail server drops what it has had before, by its key; so bodies may run again."""
    sent: dict[str, Mail] = {}
    monkeypatch.setattr(example, "send_mail", lambda mail: sent.setdefault(mail.key, mail))
    report = crash_everywhere(
        approval, LAPTOP, signals=[(DECISION, YES, "10d")], reset=sent.clear, effects=lambda: sent
    )
    report.assert_safe()
    assert report.outcome == ("completed", Outcome("approved", "ada"))
    assert report.repeated == {"ask", "remind", "decide"}
    assert len(sent) == 4


def test_the_example_shows_itself() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.approval"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    for status in ("approved", "rejected", "expired"):
        assert ended.stdout.count(f"status='{status}'") == 1
    assert "day 27: StepCompleted remind_9" in ended.stdout
