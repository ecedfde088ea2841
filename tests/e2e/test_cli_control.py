"""Signals and control from the command line as a user meets them (semantics rows 28, 32, 33, 51, 52, 55, 58).

Each command does the same beside a worker process, where it is a client, and where nobody drives the runs.
"""

import getpass
import json
import signal
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast import Engine, RunStatus
from tests.cli_processes import DEADLINE_S, Result, going_on, holdfast, wait_until
from tests.postgres_server import fresh_schema, server_url, with_schema

FLOWS = """
import asyncio
from pathlib import Path

from holdfast import Flow, Retry, task

here = Path(__file__).parent


def first(x: int) -> int:
    return x + 1


async def patient(x: int) -> int:
    (here / f"begun-{x}").touch()
    while not (here / f"go-{x}").exists():
        await asyncio.sleep(0.01)
    return x + 1


def last(x):
    return x


@task(retry=Retry(max_retries=1, base_delay="2h"))
def later(x):
    raise OSError("not yet")


@task
def fragile(x: int) -> int:
    if not (here / "mended").exists():
        raise ValueError("not mended")
    return 10 * x


approval = Flow("approval").then(first).wait_for_signal("ok", timeout="30d").then(last)
naps = Flow("naps").then(first).delay("nap", "36h").then(last)
split = Flow("split").then(first).fork().branch(later, name="a").branch(later, name="b").join(last)
slow = Flow("slow").then(patient).then(last)
bad = Flow("bad").then(first).then(fragile)
good = Flow("good").then(first)
"""
# Each test has runs of its own, by name: where nobody drives them, they come from a worker that has stopped.
APPROVALS = ("pause", "login", "twice", "signal", "file", "cancel", "explain", "resume", "open")
WAITING = dict.fromkeys(APPROVALS, "approval") | {"branch": "split", "nap": "naps", "script": "naps"}
FAILED = ("broken", "retried", "scripted")
COMPLETED = ("done", "doomed", "known")


class Place:
    """A store with runs in it; `engine` is a client of this process."""

    def __init__(self, folder: Path, url: str, engine: Engine, *, is_driven: bool) -> None:
        self.folder = folder
        self.db = ("--db", url)
        self.engine = engine
        self.is_driven = is_driven

    def cli(self, *args: str, stdin: str | None = None) -> Result:
        return holdfast(self.folder, *args, *self.db, stdin=stdin)

    def document(self, *args: str) -> object:
        result = self.cli(*args, "--json")
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return json.loads(result.stdout)

    def status(self, run_id: str) -> RunStatus:
        return self.engine.get(run_id).status()

    def kinds(self, run_id: str) -> list[str]:
        return [each.kind for each in self.engine.get(run_id).journal()]

    def state(self) -> list[object]:
        """What a refused command must leave as it was."""
        statuses = [self.status(run.id) for run in self.engine.list(limit=1_000)]
        return [(each.id, each.status, each.position, len(each.undelivered)) for each in statuses]


def begin(engine: Engine, names: Iterable[str], workflow: str, status: str) -> None:
    handles = [engine.start(workflow, 1, id=name) for name in names]
    wait_until(lambda: all(handle.status().status == status for handle in handles))


@contextmanager
def working(folder: Path, url: str) -> Generator[subprocess.Popen[str]]:
    with going_on(folder, "worker", "flows", "--db", url) as worker:
        wait_until(lambda: "ready" in (folder / "stderr-worker").read_text() or worker.poll() is not None)
        assert worker.poll() is None, (folder / "stderr-worker").read_text()
        yield worker


@pytest.fixture(scope="module", params=["alone", "worker", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    """SQLite without and with a worker, and PostgreSQL with one."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "flows.py").write_text(FLOWS)
    url = "sqlite:///runs.db"
    address = f"sqlite:///{folder}/runs.db"
    if request.param == "postgres":
        address = url = with_schema(server_url(), fresh_schema())
        assert holdfast(folder, "db", "migrate", "--db", url).returncode == 0
    with working(folder, url) as worker, Engine(address, worker=False) as engine:
        for name, workflow in WAITING.items():
            begin(engine, [name], workflow, "suspended")
        begin(engine, FAILED, "bad", "failed")
        begin(engine, COMPLETED, "good", "completed")
        is_driven = request.param != "alone"
        if not is_driven:
            worker.terminate()
            assert worker.wait(DEADLINE_S) == 0
        yield Place(folder, url, engine, is_driven=is_driven)


DRIVEN = pytest.mark.parametrize("place", ["worker", "postgres"], indirect=True, scope="module")
"""Where something is under way."""


def refused(result: Result, code: int, *words: str) -> None:
    """One line in our words, nothing on stdout, and this exit code."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


# ---- signal ----


def test_a_signal_reaches_the_run(place: Place) -> None:
    result = place.cli("signal", "signal", "ok", '{"n": [1, "\\ud800"]}')
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("msg_")
    if place.is_driven:
        assert place.engine.get("signal").result(DEADLINE_S) == {"n": [1, "\ud800"]}
        assert place.kinds("signal")[2:] == ["SignalReceived", "StepCompleted", "RunCompleted"]
    else:
        (pending,) = place.status("signal").undelivered
        assert (pending.name, pending.id) == ("ok", result.stdout.strip())
        shown = place.document("show", "signal")
        assert isinstance(shown, dict)
        assert shown["undelivered"][0]["payload"] == {"n": [1, "\ud800"]}


def test_a_signal_that_is_sent_twice_is_there_once(place: Place) -> None:
    expected = {"run_id": "twice", "name": "other", "id": "m-1"}
    assert place.document("signal", "twice", "other", "7", "--id", "m-1") == expected
    again = place.cli("signal", "twice", "other", "--id", "m-1")
    assert (again.returncode, again.stdout) == (0, "m-1\n")
    (pending,) = place.status("twice").undelivered
    assert (pending.id, pending.payload) == ("m-1", 7)


def test_a_payload_can_be_read_from_a_file_or_stdin(place: Place) -> None:
    (place.folder / "payload.json").write_text('{"from": "a file"}')
    assert place.cli("signal", "file", "other", "@payload.json").returncode == 0
    assert place.cli("signal", "file", "other", "@-", stdin="[null]").returncode == 0
    assert holdfast(place.folder, "signal", *place.db, "file", "other", "--", "-5").returncode == 0
    payloads = [each.payload for each in place.status("file").undelivered]
    assert payloads == [{"from": "a file"}, [None], -5]


# ---- pause and unpause ----


def test_a_pause_is_recorded_with_reason_and_who_and_ends_when_it_is_ended(place: Place) -> None:
    paused = place.cli("pause", "pause", "--reason", "the bank\nis closed", "--by", "ann", "--no-freeze")
    assert (paused.returncode, paused.stdout) == (0, "")
    assert "run pause starts nothing more" in paused.stderr
    wait_until(lambda: place.status("pause").status == "paused")
    pause = place.status("pause").pause
    assert pause is not None
    assert (pause.reason, pause.by, pause.freezes) == ("the bank\nis closed", "ann", False)
    explained = place.cli("explain", "pause")
    assert explained.stdout.startswith("pause: ")
    assert "paused by ann: the bank is closed" in explained.stdout
    assert place.cli("pause", "pause", "--by", "bob").returncode == 0

    unpaused = place.document("unpause", "pause", "--by", "eve")
    assert isinstance(unpaused, dict)
    assert unpaused.keys() == {"id", "status"}
    wait_until(lambda: place.status("pause").status == "suspended")
    assert place.kinds("pause")[2:] == ["Paused", "Unpaused"]
    assert getattr(place.engine.get("pause").journal()[3].entry, "by", None) == "eve"
    assert place.status("pause").pause is None


def test_who_asks_is_the_user_who_is_logged_in(place: Place) -> None:
    assert place.document("pause", "login") in [
        {"id": "login", "status": "paused"},
        {"id": "login", "status": "suspended"},
    ]
    wait_until(lambda: place.status("login").status == "paused")
    pause = place.status("login").pause
    assert pause is not None
    assert (pause.by, pause.freezes) == (getpass.getuser(), True)


def test_one_branch_can_be_paused(place: Place) -> None:
    result = place.cli("pause", "branch", "--branch", "a")
    assert result.returncode == 0
    assert "branch a of run branch starts nothing more" in result.stderr
    wait_until(lambda: place.status("branch").branches["a"].pause is not None)
    status = place.status("branch")
    assert (status.pause, status.branches["b"].pause) == (None, None)
    assert place.cli("unpause", "branch", "--branch", "a").returncode == 0
    wait_until(lambda: place.status("branch").branches["a"].pause is None)


@DRIVEN
def test_a_pause_of_a_run_under_way_lets_its_step_end_and_holds_the_next(place: Place) -> None:
    place.engine.start("slow", 7, id="slow")
    wait_until((place.folder / "begun-7").exists)
    assert place.cli("pause", "slow").returncode == 0
    (place.folder / "go-7").touch()
    wait_until(lambda: place.status("slow").status == "paused")
    wait_until(lambda: place.status("slow").branches["main"].step == "last")
    assert place.cli("unpause", "slow").returncode == 0
    assert place.engine.get("slow").result(DEADLINE_S) == 8


# ---- cancel ----


def test_a_run_is_cancelled_and_it_is_recorded_why_and_by_whom(place: Place) -> None:
    arguments = ("cancel", "cancel", "--reason", "sold out", "--by", "ann", "--wait")
    assert place.document(*arguments) == {"id": "cancel", "status": "cancelled"}
    status = place.status("cancel")
    assert (status.status, status.cancel_reason, status.cancelled_by) == ("cancelled", "sold out", "ann")
    again = place.cli("cancel", "cancel", "--by", "bob")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "run cancel is cancelled\n")
    assert place.status("cancel").cancelled_by == "ann"


def test_a_cancel_that_is_not_waited_for_comes_true(place: Place) -> None:
    document = place.document("cancel", "nap")
    assert isinstance(document, dict)
    assert document.keys() == {"id", "status"}
    wait_until(lambda: place.status("nap").status == "cancelled")
    assert place.status("nap").cancelled_by == getpass.getuser()


@DRIVEN
def test_a_run_under_way_is_cancelled_by_its_worker(place: Place) -> None:
    place.engine.start("slow", 8, id="endless")
    wait_until((place.folder / "begun-8").exists)
    assert place.cli("cancel", "endless", "--wait").returncode == 0
    assert place.status("endless").status == "cancelled"


# ---- retry, resume, explain ----


def test_a_failed_run_goes_on_where_it_failed(place: Place) -> None:
    (place.folder / "mended").touch()
    result = place.cli("retry", "retried", "--by", "ann")
    assert (result.returncode, result.stdout) == (0, "")
    assert "run retried goes on where it failed" in result.stderr
    if not place.is_driven:
        assert "no live worker knows workflow 'bad'" in result.stderr
        resumed = place.cli("resume", "retried", "flows")
        assert (resumed.returncode, resumed.stdout) == (0, "20\n")
    assert place.engine.get("retried").result(DEADLINE_S) == 20
    assert place.kinds("retried")[2:] == ["RunFailed", "RunReopened", "StepCompleted", "RunCompleted"]
    reopened = place.engine.get("retried").journal()[3].entry
    assert getattr(reopened, "by", None) == "ann"


def test_json_of_a_retry_is_the_run_and_its_status(place: Place) -> None:
    (place.folder / "mended").touch()
    document = place.document("retry", "scripted")
    assert isinstance(document, dict)
    assert document["id"] == "scripted"
    assert document["status"] in {"pending", "running", "completed"}


def test_a_run_that_is_over_just_gives_its_result(place: Place) -> None:
    assert place.cli("resume", "done").stdout == "2\n"
    expected = {"id": "done", "status": "completed", "output": 2}
    assert place.document("resume", "done", "flows") == expected
    failed = place.cli("resume", "broken")
    assert (failed.returncode, failed.stdout) == (1, "")
    for word in ["run broken failed", "ValueError", "not mended", "holdfast show broken"]:
        assert word in failed.stderr


def test_a_resumed_run_is_waited_for_wherever_it_is_driven(place: Place) -> None:
    with going_on(place.folder, "resume", "resume", "flows.py", *place.db) as waiting:
        stderr = place.folder / "stderr-resume"
        wait_until(lambda: "waits for signal 'ok'" in stderr.read_text())
        # The signal comes from yet another process.
        assert place.cli("signal", "resume", "ok", '"yes"').returncode == 0
        assert waiting.communicate(timeout=DEADLINE_S)[0] == '"yes"\n'
        assert waiting.returncode == 0


def test_resuming_can_be_interrupted_and_the_run_is_kept(place: Place) -> None:
    with going_on(place.folder, "resume", "script", "flows", *place.db) as waiting:
        stderr = place.folder / "stderr-resume"
        wait_until(lambda: "sleeps" in stderr.read_text())
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(DEADLINE_S) == 128 + signal.SIGINT
        assert "the same command goes on with it" in stderr.read_text()
    assert place.status("script").status == "suspended"


def test_explain_is_one_line_with_reason_detail_and_who_must_act(place: Place) -> None:
    result = place.cli("explain", "explain")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("signal: branch 'main' at step 'ok' waits for signal 'ok', since ")
    assert "send signal 'ok'" in result.stdout
    assert ("start a worker" in result.stdout) is not place.is_driven


def test_json_of_explain_is_the_whole_reason(place: Place) -> None:
    document = place.document("explain", "known")
    facts = {"run_id": "known", "status": "completed", "reason": "over", "detail": "it is completed"}
    assert document == facts | {
        "action": "",
        "branch": "",
        "step": "",
        "operation": "",
        "child": None,
        "due_at": None,
    }


# ---- delete ----


def test_a_run_that_is_over_can_be_deleted(place: Place) -> None:
    assert place.document("delete", "doomed") == {"id": "doomed"}
    refused(place.cli("delete", "doomed"), 2, "no run 'doomed'")
    assert "doomed" not in [run.id for run in place.engine.list(limit=1_000)]


# ---- refusals ----


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["signal", "done", "ok"], 1, ["'done' is completed", "no signal"]),
        (["signal", "nobody", "ok"], 2, ["no run 'nobody'"]),
        (["pause", "done"], 1, ["'done' is completed", "cannot be paused"]),
        (["pause", "open", "--branch", "left"], 2, ["no unfinished branch 'left'", "main"]),
        (["unpause", "broken"], 1, ["'broken' is failed", "cannot be unpaused"]),
        (["unpause", "open", "--branch", "left"], 2, ["no unfinished branch 'left'", "main"]),
        (["cancel", "done"], 1, ["'done' is completed", "cannot be cancelled"]),
        (["cancel", "broken", "--wait"], 1, ["'broken' is failed"]),
        (["retry", "open"], 1, ["'open' is suspended", "cannot be retried"]),
        (["delete", "open"], 1, ["'open' is suspended", "cannot be deleted"]),
        (["resume", "open", "other.py"], 2, ["workflow 'approval'", "only other"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_run_is_in_no_state_for_is_refused_and_nothing_happens(
    place: Place, args: list[str], code: int, words: list[str]
) -> None:
    (place.folder / "other.py").write_text("from holdfast import Flow\no = Flow('other').then(abs)\n")
    before = place.state()
    refused(place.cli(*args), code, *words)
    assert place.state() == before


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    """A SQLite file with one run that waits, which nobody drives."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "flows.py").write_text(FLOWS)
    url = "sqlite:///runs.db"
    with working(folder, url) as worker, Engine(f"sqlite:///{folder}/runs.db", worker=False) as engine:
        begin(engine, ["open"], "approval", "suspended")
        worker.terminate()
        assert worker.wait(DEADLINE_S) == 0
        yield Place(folder, url, engine, is_driven=False)


NOBODY = ("pause", "unpause", "cancel", "retry", "delete", "explain", "resume")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        *[([name, "nobody"], ["no run 'nobody'", "holdfast list"]) for name in NOBODY],
        (["cancel", "a\nb"], ["run id 'a\\nb'"]),
        (["signal", "open", "ok", "{yes}"], ["the payload is not JSON", "line 1, column 2"]),
        (["signal", "open", "ok", "NaN"], ["NaN"]),
        (["signal", "open", "ok", "@absent.json"], ["absent.json", "No such file"]),
        (["signal", "open", "ok", "@large.json"], ["more than 2097152"]),
        (["signal", "open", "two\nlines"], ["signal name 'two\\nlines'", "control characters"]),
        (["signal", "open", ""], ["signal name ''"]),
        (["signal", "open", "ok", "--id", "x" * 256], ["signal id", "255 bytes"]),
        (["pause", "open", "--branch", ""], ["branch ''"]),
        (["pause", "open", "--reason", "\udcff"], ["--reason", "UTF-8"]),
        (["resume", "open", "absent"], ["no module 'absent'"]),
    ],
    ids=lambda value: (
        " ".join(value).encode("ascii", "replace").decode()[:32] if isinstance(value, list) else ""
    ),
)
def test_a_call_that_can_never_work_is_refused_and_nothing_happens(
    small: Place, args: list[str], words: list[str]
) -> None:
    (small.folder / "large.json").write_text(json.dumps("x" * 2 * 1024 * 1024))
    before = small.state()
    refused(small.cli(*args), 2, *words)
    assert small.state() == before


@pytest.mark.parametrize(
    "args",
    [["signal", "run", "name"], *[[name, "run"] for name in NOBODY], ["db", "backup", "copy.db"]],
    ids=lambda args: " ".join(args[:2]),
)
def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, args: list[str]) -> None:
    refused(holdfast(tmp_path, *args, "--db", "sqlite:///absent.db"), 2, "no database absent.db")
    refused(holdfast(tmp_path, *args), 2, "no database is named", "HOLDFAST_URL")
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_of_a_run_whose_worker_was_killed_is_done_by_the_next(small: Place) -> None:
    with working(small.folder, small.db[1]) as worker:
        small.engine.start("slow", 9, id="orphan")
        wait_until((small.folder / "begun-9").exists)
        worker.kill()
        worker.wait(DEADLINE_S)
    assert small.cli("explain", "orphan").stdout.startswith("lease: ")
    asked = small.cli("cancel", "orphan", "--by", "ann")
    assert (asked.returncode, asked.stdout) == (0, "")
    assert "the worker that holds it cancels it" in asked.stderr
    with working(small.folder, small.db[1]):
        wait_until(lambda: small.status("orphan").status == "cancelled")
    assert small.status("orphan").cancelled_by == "ann"


def test_what_is_sent_while_nobody_drives_is_taken_by_the_next_worker(small: Place) -> None:
    assert small.cli("signal", "open", "ok", "5").returncode == 0
    with working(small.folder, small.db[1]):
        assert small.engine.get("open").result(DEADLINE_S) == 5
