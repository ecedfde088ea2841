"""The agent example as a user would test it: days in virtual time, a crash at every commit, and a real kill.

Semantics section 6.
"""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.agent import flow as example
from examples.agent import tools
from examples.agent.flow import Answer, Decision, Question, agent, approval_of
from examples.agent.model import Message, Reply, ToolCall, complete
from holdfast import get_task_context
from holdfast.codecs.entries import decode_entry
from holdfast.core.entries import OperationCompleted
from holdfast.errors import TaskError
from holdfast.testing import TestEngine, acrash_everywhere

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
LOST = Question("My order 1042 did not arrive.")
YES = Decision(is_approved=True, by="ada")
NO = Decision(is_approved=False, by="bob")
APPROVAL = approval_of("refund")
LOOKED_UP = {"find order 1042", "read rules about refunds"}
ALL_DONE = LOOKED_UP | {"open ticket: order 1042 was lost", "refund 900 EUR"}
PAID_BACK = Answer("answered", "Order 1042: 900 EUR are paid back (ticket 7)", turns=3, tokens=1_200)
ASKED = ["ask_model#1", "ask_model#2", "ask_model#2", "ask_model#3"]
"""The second turn is overloaded at first."""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the tools did outside, by idempotency key: a second request of the same key does nothing."""
    things: dict[str, str] = {}
    monkeypatch.setattr(tools, "act", things.setdefault)
    return things


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operation of each call of the model."""
    keys: list[str] = []

    def counted(transcript: Sequence[Message], attempt: int) -> Reply:
        keys.append(operation())
        return complete(transcript, attempt)

    monkeypatch.setattr(example, "complete", counted)
    return keys


def operation() -> str:
    context = get_task_context()
    return "" if context is None else context.operation


async def test_what_a_person_allows_is_done(asked: list[str], done: dict[str, str]) -> None:
    async with TestEngine(workflows=[agent]) as env:
        handle = await env.start(agent, LOST)
        await env.advance("23h")
        status = await handle.status()
        assert [wait.signal for wait in status.waiting] == [APPROVAL]
        progress = status.branches["main"].variables["progress"]
        assert (progress["turn"], progress["tokens"]) == (2, 500)
        assert [(call["id"], call["tool"]) for call in progress["asks_for"]] == [("refund", "refund")]
        assert set(done.values()) == ALL_DONE - {"refund 900 EUR"}
        await handle.signal(APPROVAL, YES)
        assert await handle.result() == PAID_BACK
    assert asked == ASKED
    assert sorted(done.values()) == sorted(ALL_DONE)


async def test_what_a_person_forbids_is_not_done(asked: list[str], done: dict[str, str]) -> None:
    async with TestEngine(workflows=[agent]) as env:
        handle = await env.start(agent, LOST)
        await handle.signal(APPROVAL, NO)
        answer = await handle.result()
    assert (answer.status, answer.text) == ("answered", "Order 1042: refused by bob (ticket 7)")
    assert "refund 900 EUR" not in done.values()
    assert asked == ASKED


async def test_silence_is_a_refusal_after_a_day(asked: list[str], done: dict[str, str]) -> None:
    async with TestEngine(workflows=[agent]) as env:
        begun = env.clock.now()
        answer = await env.run(agent, LOST)
        assert (env.clock.now() - begun).days == 1
    assert answer.text == "Order 1042: refused, as nobody allowed it in time (ticket 7)"
    assert "refund 900 EUR" not in done.values()
    assert asked == ASKED


async def test_a_decision_in_the_last_moment_counts(asked: list[str], done: dict[str, str]) -> None:
    async with TestEngine(workflows=[agent]) as env:
        handle = await env.start(agent, LOST)
        await env.advance("23h59m59s")
        await handle.signal(APPROVAL, YES)
        assert await handle.result() == PAID_BACK
    assert len(asked) == len(ASKED)
    assert len(done) == len(ALL_DONE)


@pytest.mark.parametrize(("tokens_max", "turns"), [(1, 1), (100, 1), (101, 2), (500, 2)])
async def test_a_budget_that_is_used_up_ends_the_run_before_the_next_tool(
    done: dict[str, str], tokens_max: int, turns: int
) -> None:
    async with TestEngine(workflows=[agent]) as env:
        answer = await env.run(agent, Question(LOST.text, tokens_max))
    assert (answer.status, answer.turns) == ("out_of_budget", turns)
    assert answer.tokens == {1: 100, 2: 500}[turns]
    assert set(done.values()) == (LOOKED_UP if turns == 2 else set())


async def test_a_tool_that_fails_is_for_the_model_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(_key: str, what: str) -> None:
        if what.startswith("refund"):
            raise ConnectionError("the bank is closed")

    monkeypatch.setattr(tools, "act", act)
    async with TestEngine(workflows=[agent]) as env:
        handle = await env.start(agent, LOST)
        await handle.signal(APPROVAL, YES)
        assert (await handle.result()).text == "Order 1042: failed: the bank is closed (ticket 7)"
        retries = [entry for entry in await handle.journal() if entry.kind == "OperationRetried"]
        assert len(retries) == 1 + 3


async def test_a_tool_that_is_not_there_is_for_the_model_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def dreams(transcript: Sequence[Message], _attempt: int) -> Reply:
        if transcript[-1].role == "user":
            return Reply("I read your mind.", (ToolCall("mind", "read_mind", {}),), 1)
        return Reply(transcript[-1].text, (), 1)

    monkeypatch.setattr(example, "complete", dreams)
    async with TestEngine(workflows=[agent]) as env:
        assert await env.run(agent, LOST) == Answer("answered", "there is no tool read_mind", 2, 2)


async def test_a_model_that_fails_is_asked_again_after_a_retry_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], done: dict[str, str]
) -> None:
    counted = example.complete
    is_broken = True

    def breaks(transcript: Sequence[Message], attempt: int) -> Reply:
        reply = counted(transcript, attempt)
        if is_broken and not reply.calls:
            raise ValueError("no JSON")
        return reply

    monkeypatch.setattr(example, "complete", breaks)
    async with TestEngine(workflows=[agent]) as env:
        handle = await env.start(agent, LOST)
        await handle.signal(APPROVAL, YES)
        with pytest.raises(TaskError, match="no JSON"):
            await handle.result()
        is_broken = False
        assert await (await env.retry(handle.id)).result() == PAID_BACK
    assert asked == [*ASKED, "ask_model#3"]
    assert len(done) == len(ALL_DONE)


async def test_no_crash_changes_the_answer_or_asks_the_model_for_what_is_recorded(
    monkeypatch: pytest.MonkeyPatch, done: dict[str, str], tmp_path: Path
) -> None:
    """At each call of the model, the file of that very run is looked at for an answer to it."""
    asked: list[str] = []
    most: list[int] = []
    again: list[str] = []
    before: set[Path] = set()

    def reset() -> None:
        done.clear()
        asked.clear()
        before.update(tmp_path.glob("*.db"))

    def effects() -> dict[str, str]:
        most.append(len(asked))
        return done

    def looks(transcript: Sequence[Message], attempt: int) -> Reply:
        asked.append(operation())
        (path,) = set(tmp_path.glob("*.db")) - before
        if operation() in answered(path):
            again.append(f"{operation()} in {path.name}")
        return complete(transcript, attempt)

    monkeypatch.setattr(example, "complete", looks)
    signals = [(APPROVAL, YES, "1h")]
    report = await acrash_everywhere(
        agent, LOST, signals=signals, reset=reset, effects=effects, folder=tmp_path
    )
    assert again == []
    report.assert_safe()
    assert report.outcome == ("completed", PAID_BACK)
    assert sorted(report.effects.values()) == sorted(ALL_DONE)
    assert len(report.crashes) == 2 * report.commits
    assert most[0] == len(ASKED)
    assert set(most) == {len(ASKED), len(ASKED) + 1}


def answered(path: Path) -> Counter[str]:
    """The operations that have an answer in the journal of the only run of a file."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("select entry from journal order by position").fetchall()
    entries = [decode_entry(entry, run_id="", position=0) for (entry,) in rows]
    return Counter(entry.key for entry in entries if isinstance(entry, OperationCompleted))


def run_example(directory: Path, kill_at: str | None = None) -> tuple[int, str, str]:
    """Exit status and what it printed; it is killed as soon as it prints a line that begins so."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "examples.agent", str(directory)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        patience = threading.Timer(TIMEOUT_S, process.kill)
        patience.start()
        printed = ""
        for line in process.stdout:
            printed += line
            if kill_at is not None and line.strip().startswith(kill_at):
                process.kill()
        errors = process.stderr.read()
        patience.cancel()
    return process.returncode, printed, errors


@pytest.mark.parametrize(
    ("killed_at", "recorded"),
    [
        ("tool   find order", ["model  I look"]),
        ("model  is overloaded", ["model  I look", "tool   find order", "tool   read rules"]),
        ("person allows", ["model  I look", "model  It never", "tool   open ticket"]),
    ],
)
def test_the_example_is_killed_and_goes_on_where_it_was(
    tmp_path: Path, killed_at: str, recorded: list[str]
) -> None:
    ended, printed, _ = run_example(tmp_path, killed_at)
    assert ended == -signal.SIGKILL or "answered" in printed  # a machine may be too busy to kill it in time
    ended, output, errors = run_example(tmp_path)
    assert (ended, errors) == (0, "")
    assert f"answered: {PAID_BACK.text}\n  3 turns, 1200 tokens\n" in output
    for line in recorded:
        assert (printed + output).count(line) == 1
    assert set(answered(tmp_path / "agent.db").values()) == {1}


def test_the_example_shows_itself_and_asks_nobody_for_an_answer_that_is_there(tmp_path: Path) -> None:
    ended, output, errors = run_example(tmp_path)
    assert (ended, errors) == (0, "")
    assert output.count("  tool   ") == len(ALL_DONE)
    assert output.count("  model  ") == len(ASKED)
    assert "person allows refund {'order': '1042', 'amount': '900'}" in output
    ended, output, errors = run_example(tmp_path)
    assert (ended, errors) == (0, "")
    assert "  tool   " not in output
    assert "  model  " not in output
    assert f"answered: {PAID_BACK.text}\n" in output
