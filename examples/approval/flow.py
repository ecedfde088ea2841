"""The workflow: ask, remind every three days, and give up after thirty.

    ask -> wait_1 --(decision)---------------------------------> decide
             | 3 days               ^                ^
             v                      |                |
           remind_1 -> wait_2 ------+    ...         |
                         | 3 days                    |
                         v                           |
                       remind_2 -> ... -> wait_10 ---+
                                            | 3 days
                                            v
                                          expire

Each wait is a row in the store, and costs nothing else, however long it takes.
"""

from dataclasses import dataclass
from typing import Literal

from holdfast import Edge, Step, WaitSignal, Workflow, get_task_context, task

DECISION = "decision"
"""The signal that ends the wait; its payload is a `Decision`."""
REMINDERS = 9
EVERY = "3d"
"""Ten times three days are the thirty: after the last one comes the end instead of a reminder."""


@dataclass(frozen=True)
class Request:
    """What somebody wants to be allowed."""

    what: str
    amount: int
    asked: str
    """Who is to decide, by mail address."""


@dataclass(frozen=True)
class Decision:
    """What the one who was asked says."""

    is_approved: bool
    by: str
    comment: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a request ended."""

    status: Literal["approved", "rejected", "expired"]
    by: str
    comment: str = ""


@dataclass(frozen=True)
class Mail:
    """A mail on its way; `key` is the same if it is sent twice, so that the second one can be dropped."""

    key: str
    to: str
    text: str


def send_mail(mail: Mail) -> None:
    """Stands for a mail server: prints."""
    print(f"  mail to {mail.to}: {mail.text}")


@task
def ask(request: Request) -> Request:
    """Ask for a decision."""
    send_mail(Mail(_key(), request.asked, f"May we {request.what} for {request.amount} EUR?"))
    return request


@task(retries=3)
def remind(request: Request) -> Request:
    """Ask again."""
    send_mail(Mail(_key(), request.asked, f"We still wait: may we {request.what}?"))
    return request


@task
def decide(decision: Decision) -> Outcome:
    """Turn the decision into the outcome."""
    return Outcome("approved" if decision.is_approved else "rejected", decision.by, decision.comment)


@task
def expire(request: Request) -> Outcome:
    """Give up."""
    return Outcome("expired", request.asked, "no decision came in time")


def _key() -> str:
    context = get_task_context()
    return "" if context is None else context.idempotency_key


def _wait(number: int) -> Step:
    """Wait number 1, 2, ...: the decision ends it, or three days do."""
    instead = f"remind_{number}" if number <= REMINDERS else "expire"
    wait = WaitSignal.of(DECISION, timeout=EVERY, on_timeout=instead)
    return Step(f"wait_{number}", "wait_signal", wait_signal=wait, edges=(Edge("decide"),))


def _remind(number: int) -> Step:
    return Step(f"remind_{number}", task="remind", edges=(Edge(f"wait_{number + 1}"),))


approval = Workflow(
    "approval",
    [
        Step("ask", task="ask", edges=(Edge("wait_1"),)),
        *(_wait(number) for number in range(1, REMINDERS + 2)),
        *(_remind(number) for number in range(1, REMINDERS + 1)),
        Step("decide", task="decide"),
        Step("expire", task="expire"),
    ],
    tasks=[ask, remind, decide, expire],
)
