"""`holdfast explain`: why a run does not go on."""

import asyncio

from holdfast.cli.options import AsJson, Db, RunId, existing_url, given_id
from holdfast.cli.output import print_document, print_line
from holdfast.cli.waiting import why
from holdfast.engine import AsyncEngine
from holdfast.runtime.explain import Explanation


def explain(id: RunId, *, db: Db = None, as_json: AsJson = False) -> None:
    """Say in one line what a run waits for, and who must act; or that it goes on, or is over.

    The line is: reason: detail; action. The reason is one of over, blocked,
    running, lease, pause, signal, child, timer, backoff, join,
    no_worker, missing_task, due.

    With --json: {"run_id", "status", "reason", "detail", "action", "branch",
    "step", "operation", "child", "due_at"}.
    """
    explanation = asyncio.run(_explain(existing_url(db), given_id(id)))
    if as_json:
        print_document(explanation)
    else:
        print_line(f"{explanation.reason}: {why(explanation)}")


async def _explain(url: str, run_id: str) -> Explanation:
    async with AsyncEngine(url, worker=False) as engine:
        return await (await engine.get(run_id)).explain()
