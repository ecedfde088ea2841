"""The workflow that the chaos tests run in worker processes: five steps that leave their marks in a file."""

import asyncio
import os
import time
from pathlib import Path

from holdfast import Flow, get_task_context, task

STEPS = 5
EFFECTS = Path(os.environ.get("CHAOS_EFFECTS", os.devnull))
BODY_S = float(os.environ.get("CHAOS_BODY_S", "0"))


def leave_mark(kind: str) -> None:
    """One line: what, which run and step, which process, when. A kill leaves all of it or nothing."""
    context = get_task_context()
    assert context is not None
    line = f"{kind} {context.run_id} {context.step} {os.getpid()} {time.time_ns() // 1_000_000}\n"
    file = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@task
async def work(x: int) -> int:
    leave_mark("began")
    await asyncio.sleep(BODY_S)
    leave_mark("effect")
    return x + 1


flow = Flow("chaos")
for number in range(STEPS):
    flow.then(work, name=f"step{number}")
