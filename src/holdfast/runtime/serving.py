"""What a process for bodies does: it takes calls of tasks from a pipe and answers what came of each.

Nothing of a user's is pickled. Arguments and results cross as payloads of the codec, failures as data, and the
function is found by the name of its module and its own, as it is written in the program that calls.
"""

import contextlib
import contextvars
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure
from holdfast.definition.task import as_task
from holdfast.errors import UsageError
from holdfast.runtime import failures
from holdfast.runtime.bindings import BoundStep, Callee, Importable
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext
from holdfast.runtime.executors import caught

STARTING, SERVING = "holdfast-starting", "holdfast-process"
"""What such a process is called while it imports the main module of the program, and from then on."""
READY = b""
"""The message that it is there for calls, and, for each call, that the body begins."""
PARENT_LOOK_S = 5.0
"""Between looks whether the parent is still there, should a third process hold its end of the pipe open."""
_metadata = codec.decoder(dict[str, Any])


class CallContext(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `TaskContext` on its way; `metadata` is a payload."""

    run_id: str
    incarnation: int
    workflow: str
    metadata: bytes
    at: StartAttempt


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call of a task.

    Attributes:
        module, qualname: Where the function is.
        step: Name of the step, for failures.
        payload: The argument.
        context: What `get_task_context()` gives there.
    """

    module: str
    qualname: str
    step: str
    payload: bytes
    context: CallContext | None


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What came of a call: the payload of the result, or a failure."""

    output: bytes | None
    failure: Failure | None


_encode = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(Call).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
Steps = dict[tuple[str, str, str], BoundStep]


def encode_call(step: Callee, importable: Importable, payload: bytes, context: TaskContext | None) -> bytes:
    """The message that asks for a body.

    Raises:
        CodecError: The metadata of the workflow cannot be encoded.
    """
    return _encode(Call(*importable, step.name, payload, None if context is None else _packed(context)))


def decode_answer(message: bytes) -> bytes | Failure:
    """What came of a call: the payload of the result, or a failure."""
    answer = _decode_answer(message)
    return (answer.output or b"") if answer.failure is None else answer.failure


def serve(pipe: Connection) -> None:
    """The life of such a process: call after call until the pipe is closed, or the parent is gone.

    It leads a session of its own: a Ctrl-C in the terminal is for the parent, and a kill of its group takes
    what a body has started with it.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, name="holdfast-parent", daemon=True).start()
    multiprocessing.current_process().name = SERVING
    steps: Steps = {}
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(READY)
        while True:
            call = _decode_call(pipe.recv_bytes())
            outcome = _outcome(call, steps, partial(pipe.send_bytes, READY))
            answer = Answer(None, outcome) if isinstance(outcome, Failure) else Answer(outcome, None)
            pipe.send_bytes(_encode(answer))


def refuse_while_starting() -> None:
    """Refuse to open an engine in a process that still imports the main module of its program.

    Raises:
        UsageError: It does: the module opens the engine whenever it is imported, and would start its runs anew.
    """
    if multiprocessing.current_process().name == STARTING:
        raise UsageError(
            what="the main module opens an engine while it is imported by a process of a task",
            fix='put what the program does under: if __name__ == "__main__":',
        )


def _packed(context: TaskContext) -> CallContext:
    metadata = codec.encode(dict(context.metadata))
    at = StartAttempt(context.branch, context.step, context.visit, context.attempt)
    return CallContext(context.run_id, context.incarnation, context.workflow, metadata, at)


def _unpacked(packed: CallContext) -> TaskContext:
    facts = RunFacts(packed.run_id, packed.incarnation, packed.workflow, _metadata(packed.metadata))
    return TaskContext(facts, packed.at)


def _outcome(call: Call, steps: Steps, begun: Callable[[], object]) -> bytes | Failure:
    fail = partial(failures.from_exception, step=call.step)
    step = caught(partial(_bound, call, steps), fail)
    if isinstance(step, Failure):
        return step
    begun()
    outcome = contextvars.copy_context().run(caught, partial(_output, call, step), fail)
    for stream in (sys.stdout, sys.stderr):
        # A process that is killed when idle must not take with it what a body has printed.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    return outcome


def _bound(call: Call, steps: Steps) -> BoundStep:
    key = (call.module, call.qualname, call.step)
    step = steps.get(key)
    if step is None:
        found: Any = Importable(call.module, call.qualname).find()
        step = steps[key] = BoundStep(call.step, as_task(found))
    return step


def _output(call: Call, step: BoundStep) -> bytes:
    CURRENT.set(None if call.context is None else _unpacked(call.context))
    return codec.encode(step.invoke(call.payload))


def _end_with_parent() -> None:
    """Die as soon as the parent has, in the middle of a body: another worker may make its attempt now."""
    parent = multiprocessing.parent_process()
    while parent is not None and not wait([parent.sentinel], PARENT_LOOK_S) and os.getppid() == parent.pid:
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
