"""The loop: ask the model, use the tools that it wants, until it answers.

The code reads as if nothing could go wrong. What it asks `ctx` for is recorded: after a crash, or a day of
waiting, the function runs again from its first line, and is given at once what is recorded. So the transcript
is a plain list that is stored nowhere: it is made again from what the model and the tools have said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from examples.agent.model import Message, OverloadedError, Reply, ToolCall, complete
from examples.agent.tools import TOOLS
from holdfast import Context, Retry, get_task_context, task, workflow
from holdfast.errors import SignalTimeoutError, StepError

PATIENCE = "1d"
"""How long a person is waited for before silence means no."""


@dataclass(frozen=True)
class Question:
    """What somebody wants, and what it may cost."""

    text: str
    tokens_max: int = 10_000


@dataclass(frozen=True)
class Decision:
    """What a person says about a call: the payload of the signal `approval_of(call.id)`."""

    is_approved: bool
    by: str


@dataclass(frozen=True)
class Progress:
    """The variable `progress`, for everybody who looks at the run; `asks_for` is what a person is to decide."""

    turn: int
    tokens: int
    says: str
    asks_for: Sequence[ToolCall]


@dataclass(frozen=True)
class Answer:
    """How it ended; `text` is the last that the model said."""

    status: Literal["answered", "out_of_budget"]
    text: str
    turns: int
    tokens: int


def approval_of(call_id: str) -> str:
    """The signal that allows or forbids a call."""
    return f"approve_{call_id}"


@task(retry=Retry(error_equals=(OverloadedError, "timeout"), max_retries=5, base_delay="200ms"), timeout="60s")
async def ask_model(transcript: list[Message]) -> Reply:
    """Have the model say what comes next: slow, dear, and never the same twice, so each reply is recorded."""
    context = get_task_context()
    return complete(transcript, 1 if context is None else context.attempt)


@workflow
async def agent(ctx: Context, question: Question) -> Answer:
    """Answer a question with the help of tools."""
    transcript = [Message("user", question.text)]
    turn = tokens = 0
    while True:
        reply = await ctx.step(ask_model, transcript)
        turn, tokens = turn + 1, tokens + reply.tokens
        if not reply.calls:
            return Answer("answered", reply.text, turn, tokens)
        if tokens >= question.tokens_max:
            return Answer("out_of_budget", reply.text, turn, tokens)
        asks_for = [call for call in reply.calls if call.tool in TOOLS and TOOLS[call.tool].needs_approval]
        ctx.set("progress", Progress(turn, tokens, reply.text, asks_for))
        transcript.append(Message("model", reply.text))
        transcript += await ctx.map(use_tool, reply.calls)


async def use_tool(ctx: Context, call: ToolCall) -> Message:
    """Call a tool, unless somebody forbids it; what goes wrong is for the model to know."""
    tool = TOOLS.get(call.tool)
    if tool is None:
        return Message("tool", f"there is no tool {call.tool}", call.id)
    if tool.needs_approval:
        try:
            decision = await ctx.wait_signal(approval_of(call.id), timeout=PATIENCE, type=Decision)
        except SignalTimeoutError:
            return Message("tool", "refused, as nobody allowed it in time", call.id)
        if not decision.is_approved:
            return Message("tool", f"refused by {decision.by}", call.id)
    try:
        return Message("tool", await ctx.step(tool.fn, call.arguments), call.id)
    except StepError as error:
        return Message("tool", f"failed: {error.failure.message}", call.id)
