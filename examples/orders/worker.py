"""A worker: a process that drives orders until it is told to stop.

`python -m examples.orders.worker` needs two environment variables: `HOLDFAST_URL` (where runs are
recorded) and `ORDERS_WORLD` (the file of the pretended outside). Start it, kill it, start it again:
it goes on where the last one was.
"""

import signal

from examples.orders.flow import orders
from examples.orders.world import world
from holdfast import Engine

CONCURRENCY = 16
"""Orders under way at once: few, so that a kill finds some not begun, some under way, some done."""


def main() -> int:
    """Drive runs until SIGTERM or Ctrl-C; then let running bodies finish and give the rest back."""
    stop = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread begins, so that no thread is interrupted by them: `sigwait` takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    world()
    with Engine(workflows=[orders], worker=True, concurrency=CONCURRENCY):
        signal.sigwait(stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
