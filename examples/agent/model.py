"""Stands for a language model: what it says next is a function of the transcript. There is no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be used; `id` is its name in the transcript."""

    id: str
    tool: str
    arguments: dict[str, str]


@dataclass(frozen=True)
class Message:
    """A line of the transcript; `call` is what the line of a tool answers."""

    role: Literal["user", "model", "tool"]
    text: str
    call: str = ""


@dataclass(frozen=True)
class Reply:
    """What the model says: tools to use, or without any its answer. `tokens` is what it costs."""

    text: str
    calls: tuple[ToolCall, ...]
    tokens: int


class OverloadedError(Exception):
    """The model has no time now; later it will."""


def complete(transcript: Sequence[Message], attempt: int) -> Reply:
    """Look things up, then act, then answer; the second turn is overloaded at its first attempt."""
    turn = sum(message.role == "model" for message in transcript) + 1
    if (turn, attempt) == (2, 1):
        print("  model  is overloaded", flush=True)
        raise OverloadedError("try again later")
    found = {message.call: message.text for message in transcript if message.role == "tool"}
    order = next(word for word in transcript[0].text.split() if word.isdecimal())
    calls: tuple[ToolCall, ...] = ()
    match turn:
        case 1:
            text = "I look the order and the rules up."
            calls = (
                ToolCall("order", "find_order", {"order": order}),
                ToolCall("rules", "read_rules", {"about": "refunds"}),
            )
        case 2:
            text = "It never arrived, so I pay it back and note that down."
            amount = found["order"].split()[0]
            calls = (
                ToolCall("refund", "refund", {"order": order, "amount": amount}),
                ToolCall("ticket", "open_ticket", {"text": f"order {order} was lost"}),
            )
        case _:
            text = f"Order {order}: {found['refund']} ({found['ticket']})"
    print(f"  model  {text}", flush=True)
    return Reply(text, calls, tokens=100 * len(transcript))
