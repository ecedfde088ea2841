"""Shows three requests, thirty days each, in virtual time: `python -m examples.approval`."""

import asyncio

from examples.approval.flow import DECISION, Decision, Request, approval
from holdfast import JournalEntry
from holdfast.testing import TestEngine

LAPTOP = Request("buy a laptop", 1_400, "ada@example.org")


async def main() -> None:
    """Approve one request on the tenth day, reject one at once, and let one expire."""
    async with TestEngine(workflows=[approval]) as env:
        print("approved on the tenth day:")
        handle = await env.start(approval, LAPTOP, id="laptop")
        await env.advance("10d")
        await handle.signal(DECISION, Decision(is_approved=True, by="ada"))
        print(f"  {await handle.result()}\n")

        print("rejected at once:")
        handle = await env.start(approval, LAPTOP, id="second-laptop")
        await handle.signal(DECISION, Decision(is_approved=False, by="ada", comment="one is enough"))
        print(f"  {await handle.result()}\n")

        print("never decided:")
        handle = await env.start(approval, LAPTOP, id="third-laptop")
        print(f"  {await handle.result()}\n")

        print("what the journal of that one says:")
        report(await handle.journal())


def report(journal: list[JournalEntry]) -> None:
    """Print what happened on which day."""
    for entry in journal:
        day = (entry.at - journal[0].at).days
        print(f"  day {day:2}: {entry.kind} {getattr(entry.entry, 'step', '')}")


asyncio.run(main())
