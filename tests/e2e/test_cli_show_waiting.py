"""`holdfast show` of runs that wait, are paused, were cancelled or went on again (rows 28 to 35, 52)."""

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast import Engine, Flow, Retry, task
from holdfast.codecs.entries import decode_entry, encode_entry
from holdfast.core.entries import StepCompleted
from tests.cli_processes import DEADLINE_S, command, environment, wait_until

INSTANT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"


def first(x: int) -> int:
    return x + 1


def last(x: object) -> object:
    return x


def gone(x: object) -> object:
    return x


class Bodies:
    """What a run's fate hangs on."""

    is_mended = False


@task(retry=Retry(max_retries=1, base_delay="90m", jitter_strategy="NONE"))
def later(x: int) -> int:
    raise OSError(f"not yet {x}")


@task
def fragile(x: int) -> int:
    if not Bodies.is_mended:
        raise ValueError("not mended")
    return x


approval = (
    Flow("approval", timeout="90d").then(first).wait_for_signal("ok", timeout="36h", on_timeout=gone).then(last)
)
forever = Flow("forever").then(first).wait_for_signal("ok").then(last)
hasty = Flow("hasty").then(first).wait_for_signal("ok", timeout="10ms", on_timeout=gone).then(last)
naps = Flow("naps").then(first).delay("nap", "10ms").delay("long nap", "1d12h").then(last)
split = Flow("split").then(first).fork().branch(later, name="a").branch(later, name="b").join(last)
bad = Flow("bad").then(first).then(fragile)


def holdfast(folder: Path, *args: str) -> str:
    result = subprocess.run(
        command(*args, "--db", "sqlite:///runs.db"),
        cwd=folder,
        env=environment() | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one run for each thing that can be shown, which nobody drives."""
    folder = tmp_path_factory.mktemp("waiting")
    flows = [approval, forever, hasty, naps, split, bad]
    with Engine(f"sqlite:///{folder}/runs.db", workflows=flows, worker=True) as engine:
        for flow in flows:
            engine.start(flow, 1, id=flow.name)
        for name in ["paused", "cancelled", "received"]:
            engine.start("forever", 1, id=name)
        engine.get("hasty").result(DEADLINE_S)
        wait_until(lambda: engine.get("bad").status().status == "failed")
        Bodies.is_mended = True
        engine.retry("bad", by="ann").result(DEADLINE_S)
        at_rest = {"suspended", "completed"}
        wait_until(lambda: all(run.status in at_rest for run in engine.list()))
        wait_until(lambda: engine.get("naps").status().branches["main"].step == "long nap")
        engine.get("paused").pause("the bank\nis closed", by="ann", freeze=False)
        engine.get("split").pause("only this", by="bob", branch="a")
        engine.get("cancelled").signal("other", {"text": "\ud800"}, id="m-1")
        engine.get("cancelled").cancel("sold \x1b[31m out", by="eve")
        engine.get("received").signal("ok", [1, 2])
        engine.get("received").result(DEADLINE_S)
        engine.get("paused").pause(by="ann")
    return folder


def shown(folder: Path, run_id: str) -> dict[str, Any]:
    document = json.loads(holdfast(folder, "show", run_id, "--json"))
    assert isinstance(document, dict)
    return document


def test_a_wait_is_shown_with_since_and_until_and_the_deadline_of_the_run(folder: Path) -> None:
    text = holdfast(folder, "show", "approval")
    assert re.search(rf"main +ok +signal +for signal 'ok' +{INSTANT} +{INSTANT}", text)
    assert re.search(rf"deadline +{INSTANT}", text)
    assert re.search(r"RunStarted +1 -> first \(branch main\), to be over in 90d", text)
    assert "2 -> ok (waits for 1d12h for signal ok)" in text
    document = shown(folder, "approval")
    (waiting,) = document["waiting"]
    assert (waiting["reason"], waiting["signal"]) == ("signal", "ok")
    assert document["deadline"] > waiting["due_at"] > waiting["since"]


def test_a_wait_without_an_end_has_none(folder: Path) -> None:
    text = holdfast(folder, "show", "forever")
    assert re.search(rf"main +ok +signal +for signal 'ok' +{INSTANT} +- ", text)
    assert "(waits for signal ok)" in text
    assert "deadline" not in text


def test_sleeps_are_shown_as_people_write_them(folder: Path) -> None:
    text = holdfast(folder, "show", "naps")
    assert "2 -> nap (sleeps for 10ms)" in text
    assert "slept -> long nap (sleeps for 1d12h)" in text
    assert re.search(rf"main +long nap +timer +sleeps +{INSTANT} +{INSTANT}", text)


def test_a_backoff_is_shown_as_people_write_it(folder: Path) -> None:
    assert "in 1h30m, after OSError in step 'later': not yet 2" in holdfast(folder, "show", "split")


def test_a_pause_is_shown_with_who_and_why(folder: Path) -> None:
    text = holdfast(folder, "show", "paused")
    assert "status    paused\n" in text
    assert "paused    by ann: the bank is closed (clocks run)\n" in text
    assert re.search(rf"main +ok +pause +paused by ann: the bank is closed +{INSTANT}", text)
    assert re.search(r"Paused +by ann, the bank is closed, clocks run", text)
    assert "what is held goes on when it is unpaused" in text
    pause = {"reason": "the bank\nis closed", "by": "ann", "freezes": False}
    assert shown(folder, "paused")["pause"] == pause


def test_a_pause_of_a_branch_is_that_of_the_branch(folder: Path) -> None:
    text = holdfast(folder, "show", "split")
    assert re.search(r"a +later +pause +paused by bob: only this", text)
    assert re.search(r"b +later_2 +backoff +for attempt 2", text)
    branches = shown(folder, "split")["branches"]
    assert branches["a"]["pause"] == {"reason": "only this", "by": "bob", "freezes": True}
    assert branches["b"]["pause"] is None


def test_a_cancelled_run_is_shown_with_who_why_and_what_it_never_received(folder: Path) -> None:
    text = holdfast(folder, "show", "cancelled")
    assert "cancelled by eve: sold \\x1b[31m out\n" in text
    assert "\x1b" not in text
    assert "signals that no branch has received" in text
    assert re.search(rf'other +m-1 +{INSTANT} +{{"text":"\\ud800"}}', text)
    assert "waiting for" not in text
    document = shown(folder, "cancelled")
    assert (document["cancelled_by"], document["cancel_reason"]) == ("eve", "sold \x1b[31m out")
    (pending,) = document["undelivered"]
    assert (pending["name"], pending["id"], pending["payload"]) == ("other", "m-1", {"text": "\ud800"})


def test_a_signal_that_was_received_is_in_the_journal_with_its_payload(folder: Path) -> None:
    text = holdfast(folder, "show", "received")
    assert re.search(r"SignalReceived +main +ok +message 1: \[1,2\] -> last", text)
    assert "no branch has received" not in text


def test_a_wait_that_timed_out_says_where_it_went(folder: Path) -> None:
    assert re.search(r"WaitTimedOut +main +ok +no signal in time -> gone", holdfast(folder, "show", "hasty"))


def test_a_run_that_was_retried_says_who_wanted_it(folder: Path) -> None:
    assert re.search(r"RunReopened +by ann", holdfast(folder, "show", "bad"))


def test_variables_are_shown_as_recorded(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        query = "select run, entry from journal join runs on key = run where id = ? and journal.position = 2"
        ((key, stored),) = connection.execute(query, ("forever",)).fetchall()
        entry = decode_entry(stored, run_id="forever", position=2)
        assert isinstance(entry, StepCompleted)
        changed = msgspec.structs.replace(entry, sets={"colour": b'json.1:"red"'})
        update = "update journal set entry = ? where run = ? and position = 2"
        connection.execute(update, (encode_entry(changed), key))
        connection.commit()
    text = holdfast(folder, "show", "forever")
    assert re.search(r"branch +variable +value", text)
    assert re.search(r'main +colour +"red"', text)
    assert '2, colour = "red" -> ok' in text
    assert shown(folder, "forever")["branches"]["main"]["variables"] == {"colour": "red"}
