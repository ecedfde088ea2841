"""What the model may use: ordinary tasks, and which of them a person must allow."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from holdfast import get_task_context, task

Arguments = dict[str, str]


@dataclass(frozen=True)
class Tool:
    """A task, and whether a person is asked before it is called."""

    fn: Callable[[Arguments], Coroutine[Any, Any, str]]
    needs_approval: bool = False


def act(key: str, what: str) -> None:
    """Stands for the services that tools call: prints. They know a request that comes twice by its key."""
    print(f"  tool   {what:40} {key}", flush=True)


@task(retries=3, timeout="30s")
async def find_order(arguments: Arguments) -> str:
    """Look an order up."""
    act(_key(), f"find order {arguments['order']}")
    return "900 EUR, paid, lost on its way"


@task(retries=3, timeout="30s")
async def read_rules(arguments: Arguments) -> str:
    """Read the rules of the house."""
    act(_key(), f"read rules about {arguments['about']}")
    return "What is lost is paid back. More than 100 EUR: ask somebody."


@task(retries=3, timeout="30s")
async def refund(arguments: Arguments) -> str:
    """Pay back."""
    act(_key(), f"refund {arguments['amount']} EUR")
    return f"{arguments['amount']} EUR are paid back"


@task(retries=3, timeout="30s")
async def open_ticket(arguments: Arguments) -> str:
    """Note something down for the people of the house."""
    act(_key(), f"open ticket: {arguments['text']}")
    return "ticket 7"


def _key() -> str:
    """The same for each attempt of one call, also after a crash."""
    context = get_task_context()
    return "" if context is None else context.idempotency_key


TOOLS = {
    "find_order": Tool(find_order),
    "read_rules": Tool(read_rules),
    "refund": Tool(refund, needs_approval=True),
    "open_ticket": Tool(open_ticket),
}
