"""What a process for bodies does, here in a thread: calls in, answers out (semantics rows 22, 24, 46)."""

import multiprocessing
import multiprocessing.connection
import threading
from collections.abc import Iterator

import pytest

from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure
from holdfast.definition.task import task
from holdfast.runtime import serving
from holdfast.runtime.bindings import BoundStep, Importable
from holdfast.runtime.context import RunFacts, TaskContext
from tests import process_bodies as bodies

PATIENCE_S = 10
CONTEXT = TaskContext(RunFacts("order-42", 2, "order", {"team": "sales"}), StartAttempt("pay", "charge", 3, 2))
Pipe = multiprocessing.connection.Connection


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """The other end of one that serves, in the middle of its life."""
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "name", serving.STARTING)
    monkeypatch.setattr(serving.os, "setsid", lambda: None)
    monkeypatch.setattr(serving, "_end_with_parent", lambda: None)
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=serving.serve, args=(theirs,))
    thread.start()
    assert hear(ours) == serving.READY
    assert process.name == serving.SERVING
    yield ours
    ours.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it ends when its pipe is closed"
    theirs.close()


def hear(pipe: Pipe) -> bytes:
    assert pipe.poll(PATIENCE_S)
    return pipe.recv_bytes()


def call(name: str, payload: bytes = b"json.1:null", context: TaskContext | None = None) -> bytes:
    step = BoundStep("charge", task(bodies.pid))
    return serving.encode_call(step, Importable(bodies.__name__, name), payload, context)


def test_it_says_when_the_body_begins_and_what_came_of_it(pipe: Pipe) -> None:
    for number in (1, 2):
        pipe.send_bytes(call("inc", b'json.1:{"id":%d,"items":[]}' % number))
        assert hear(pipe) == serving.READY
        assert serving.decode_answer(hear(pipe)) == b'json.1:{"id":%d,"items":[]}' % (number + 1)


@pytest.mark.parametrize(
    ("name", "payload", "kind"),
    [("refuse", b'json.1:{"id":1,"items":[]}', "card"), ("leave", b'json.1:"exit"', "SystemExit")],
)
def test_whatever_a_body_raises_is_a_failure(pipe: Pipe, name: str, payload: bytes, kind: str) -> None:
    pipe.send_bytes(call(name, payload))
    assert hear(pipe) == serving.READY
    failed = serving.decode_answer(hear(pipe))
    assert isinstance(failed, Failure)
    assert (failed.type, failed.step) == (kind, "charge")


def test_a_function_that_is_not_there_is_a_failure_before_the_body(pipe: Pipe) -> None:
    pipe.send_bytes(call("missing"))
    failed = serving.decode_answer(hear(pipe))
    assert isinstance(failed, Failure)
    assert failed.type == "AttributeError"


def test_a_body_has_the_context_of_its_call_and_no_other(pipe: Pipe) -> None:
    pipe.send_bytes(call("look", context=CONTEXT))
    assert hear(pipe) == serving.READY
    seen = serving.decode_answer(hear(pipe))
    assert isinstance(seen, bytes)
    assert b'"idempotency_key":"order-42/2/pay/charge/3","metadata":{"team":"sales"}' in seen
    pipe.send_bytes(call("has_context"))
    assert hear(pipe) == serving.READY
    assert serving.decode_answer(hear(pipe)) == b"json.1:false"
