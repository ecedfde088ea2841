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

from holdfast import Context, Engine, Flow, Retry, task, workflow
from holdfast.cli.entries import what
from holdfast.codecs.entries import decode_entry, encode_entry
from holdfast.core.entries import (
    Child,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunFailed,
    ScopesClosed,
    StepCompleted,
    StepSuspended,
    Wait,
)
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


@workflow
async def ships(ctx: Context, x: int) -> int:
    return x + len(await ctx.wait_signal("truck"))


@workflow
async def sends(ctx: Context, x: int) -> int:
    return int(await ctx.child(ships, x))


@workflow
async def orders(ctx: Context, x: int) -> list[object]:
    held = await ctx.step(first, x)
    ctx.set("held", held)
    ctx.set("gone", held)
    ctx.delete("gone")
    return await ctx.gather(
        ctx.sleep("36h", name="nap"),
        ctx.wait_signal("paid", timeout="2d"),
        ctx.child(ships, held),
        ctx.step(later, held),
        ctx.child(ships, held, name="apart", detach=True),
    )


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
    functions = [ships, orders, sends]
    with Engine(f"sqlite:///{folder}/runs.db", workflows=[*flows, *functions], worker=True) as engine:
        for flow in [*flows, orders]:
            engine.start(flow, 1, id=flow.name)
        engine.start("sends", 1, id="parent")
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


# durable functions and their children


def child_of(folder: Path, key: str) -> str:
    operations = shown(folder, "orders")["branches"]["main"]["operations"]
    (child,) = [each["child"] for each in operations if each["key"].endswith(key)]
    assert isinstance(child, str)
    return child


def test_what_a_body_has_asked_for_stands_below_its_branch(folder: Path) -> None:
    text = holdfast(folder, "show", "orders")
    child, apart = child_of(folder, "ships#1"), child_of(folder, "apart#1")
    assert re.search(r"\n main +suspended +orders +1 +- *\n   first#1 +completed +1 +step, 2 *\n", text)
    assert re.search(rf"\n   gather#1/0/nap#1 +sleeping +1 +sleep, until {INSTANT}", text)
    assert re.search(rf"\n   gather#1/1/paid#1 +waiting +1 +wait_signal, until {INSTANT}", text)
    assert re.search(rf"\n   gather#1/2/ships#1 +child +1 +child, run {child} ", text)
    assert re.search(rf"\n   gather#1/3/later#1 +backoff +2 +step, until {INSTANT}, OSError.*: not yet 2", text)
    assert re.search(rf"\n   gather#1/4/apart#1 +completed +1 +child, run {apart} ", text)
    assert re.search(r"main +held +2", text)
    assert "gone" not in text.split("journal")[0]


def test_each_thing_that_a_body_waits_for_is_shown_with_its_key(folder: Path) -> None:
    text = holdfast(folder, "show", "orders")
    child = child_of(folder, "ships#1")
    said = [
        rf"main +orders +gather#1/1/paid#1 +signal +for signal 'paid' +{INSTANT} +{INSTANT}",
        rf"main +orders +gather#1/2/ships#1 +child +for child run '{child}' of workflow 'ships' +{INSTANT} +- ",
        rf"main +orders +gather#1/0/nap#1 +timer +sleeps +{INSTANT} +{INSTANT}",
        rf"main +orders +gather#1/3/later#1 +backoff +for attempt 2 after OSError.* - +{INSTANT}",
    ]
    places = [re.search(each, text) for each in said]
    found = [each.start() for each in places if each is not None]
    assert len(found) == len(said), text
    document = shown(folder, "orders")
    assert [each["reason"] for each in document["waiting"]] == ["signal", "child", "timer", "backoff"]
    assert [each["child"] for each in document["waiting"]] == [None, child, None, None]


def test_json_has_the_operations_of_a_body(folder: Path) -> None:
    operations = shown(folder, "orders")["branches"]["main"]["operations"]
    (retried,) = [each for each in operations if each["status"] == "backoff"]
    assert (retried["failure"]["type"], retried["failure"]["message"]) == ("OSError", "not yet 2")
    assert retried["due_at"].endswith("Z")
    assert set(retried) == {"key", "kind", "status", "attempt", "output", "failure", "due_at", "child"}


def test_children_are_listed_and_shown_like_any_other_run(folder: Path) -> None:
    child = child_of(folder, "ships#1")
    listed = json.loads(holdfast(folder, "list", "--workflow", "ships", "--json"))
    (other,) = [each["child"] for each in shown(folder, "parent")["waiting"]]
    assert {run["id"] for run in listed} == {child, child_of(folder, "apart#1"), other}
    assert child.startswith("orders/gather#1/2/ships#1")
    assert "for signal 'truck'" in holdfast(folder, "show", child)


def test_a_run_that_waits_for_a_child_tells_which_run_to_explain_next(folder: Path) -> None:
    text = holdfast(folder, "explain", "parent")
    found = re.fullmatch(
        r"child: branch 'main' at step 'sends' waits for child run '(.*)' of workflow 'ships', which is"
        r" suspended, since .* UTC; explain run '(.*)'; start a worker: .*\n",
        text,
    )
    assert found is not None, text
    assert found[1] == found[2]
    assert holdfast(folder, "explain", found[1]).startswith("signal: branch 'main' at step 'ships' waits for")
    document = json.loads(holdfast(folder, "explain", "parent", "--json"))
    assert (document["reason"], document["child"], document["operation"]) == ("child", found[1], "ships#1")


FAILURE = Failure("OSError", "no line")
ENTRIES: list[tuple[Entry, str]] = [
    (OperationBegun("main", "s", 1, "nap#1", "sleep", Wait("", 90_000)), "nap#1: sleeps for 1m30s"),
    (
        OperationBegun("main", "s", 1, "g#1/0/ok#1", "wait_signal", Wait("ok", 5_000)),
        "g#1/0/ok#1: waits for 5s for signal ok",
    ),
    (
        OperationBegun("main", "s", 1, "w#1", "child", None, Child("r/w", "w"), {"v": b"json.1:1"}),
        "w#1: starts child run r/w of workflow w, v = 1",
    ),
    (OperationCompleted("main", "s", 1, "a#1", "step", b"json.1:[1]", 0, {"v": b""}), "a#1: [1], v is deleted"),
    (OperationCompleted("main", "s", 1, "nap#1", "sleep", b""), "nap#1: slept"),
    (
        OperationCompleted("main", "s", 1, "patched:p", "patch", b""),
        "patched:p: the new code is for this run",
    ),
    (OperationCompleted("main", "s", 1, "ok#1", "wait_signal", b"json.1:2", 7), "ok#1: message 7: 2"),
    (OperationFailed("main", "s", 1, "a#1", "step", FAILURE), "a#1: OSError: no line"),
    (
        OperationRetried("main", "s", 1, "a#1", 2, 1_500, "all", FAILURE),
        "a#1: in 1s500ms, after OSError: no line",
    ),
    (ScopesClosed("main", "s", 1, "race#1", (1,)), "race#1: ended 1, the others are cancelled"),
    (ScopesClosed("main", "s", 1, "race#1", ()), "race#1: ended none, the others are cancelled"),
    (StepSuspended("main", "s", 1), "put away until something that it waits for is there"),
    (Reported("main", "s", 1, "", "progress", b"json.1:3"), "progress 3"),
    (Reported("main", "s", 1, "a#1", "heartbeat", b"json.1:3"), "a#1: heartbeat 3"),
    (
        RunBlocked("main", "s", 1, "definition_changed", "expected a, and found b"),
        "definition_changed: expected a, and found b",
    ),
    (
        RetryScheduled("main", "s", 1, 2, 2_000, "all", FAILURE, "a#1"),
        "in 2s, after OSError: no line, of a#1",
    ),
    (RunFailed("main", "s", 1, 1, FAILURE, "a#1"), "OSError: no line, of a#1"),
]


@pytest.mark.parametrize(("entry", "said"), ENTRIES, ids=[type(entry).__name__ for entry, _ in ENTRIES])
def test_an_entry_says_what_it_is_about(entry: Entry, said: str) -> None:
    assert what(entry) == said
