"""Asks the agent, decides as a second client, and prints the answer: `python -m examples.agent [directory]`."""

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from examples.agent.flow import Decision, Question, agent, approval_of
from holdfast import AsyncEngine
from holdfast.errors import RunStateError

RUN_ID = "question-1"
QUESTION = Question("My order 1042 did not arrive. May I have my money back?")
LOOK_S = 0.1


async def main(directory: Path) -> None:
    """Start the run, or go on with the one that is there."""
    url = f"sqlite:///{directory / 'agent.db'}"
    print(f"  start  run {RUN_ID} in {url}", flush=True)
    async with AsyncEngine(url, workflows=[agent]) as engine, asyncio.TaskGroup() as people:
        handle = await engine.start(agent, QUESTION, id=RUN_ID, on_conflict="use_existing")
        person = people.create_task(decide(url))
        answer = await handle.result(timeout="60s")
        person.cancel()
        print(f"  {answer.status}: {answer.text}\n  {answer.turns} turns, {answer.tokens} tokens", flush=True)


async def decide(url: str) -> None:
    """Somebody else, who might as well sit at another machine: sees what the run waits for, and allows it."""
    async with AsyncEngine(url, worker=False) as client:
        handle = await client.get(RUN_ID)
        while (status := await handle.status()).status != "suspended":  # noqa: ASYNC110 - others drive it
            await asyncio.sleep(LOOK_S)
        for call in status.branches["main"].variables["progress"]["asks_for"]:
            print(f"  person allows {call['tool']} {call['arguments']}", flush=True)
            decision = Decision(is_approved=True, by="ada")
            with contextlib.suppress(RunStateError):  # it had been said before, and the run is over by now
                # With an id: what is said twice, because one does not know if it was heard, is said once.
                await handle.signal(approval_of(call["id"]), decision, id=call["id"])


if __name__ == "__main__":
    named = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="holdfast-agent-")
    Path(named).mkdir(parents=True, exist_ok=True)
    asyncio.run(main(Path(named).resolve()))
