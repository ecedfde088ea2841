"""What is true of every run, whatever was recorded: for tests, the simulator and crash checks."""

from holdfast.core.run import OPEN, Run


def check(run: Run) -> list[str]:
    """List what is wrong with the state; an empty list is the only right answer."""
    branches = run.branches.values()
    active = [b.id for b in branches if b.status == "active"]
    backoff = {b.id: b.due_at_ms for b in branches if b.status == "backoff"}
    joining = [b.id for b in branches if b.status == "joining"]
    still_open = len(active) + len(backoff) + len(joining)
    claims = {
        "active counts the active branches": run.active == len(active),
        "backoffs holds the due times": run.backoffs == backoff,
        "joining holds the waiting branches": sorted(run.joining) == sorted(joining),
        "open counts the open branches": run.open == still_open,
        "nothing is open in a run that is over": not (run.is_over and still_open),
        "only a completed run has an output branch": (run.status == "completed")
        == (run.output_branch is not None),
        "only a failed run has a failure": (run.status == "failed") == (run.failure is not None),
        "an open branch is somewhere": all(b.at is not None for b in branches if b.status in OPEN),
        "stamps never fall": run.created_at_ms <= run.updated_at_ms,
    }
    return [claim for claim, holds in claims.items() if not holds]
