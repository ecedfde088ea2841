"""Every bound of the runtime, with its unit and its reason."""

CONCURRENCY = 1_000
"""Runs a worker drives at once unless told otherwise: each costs some KB, and claims fill the rest."""
CONCURRENCY_MAX = 100_000
"""Above this a process spends its time in bookkeeping; start another worker instead."""
THREADS_MAX = 64
"""Sync bodies that run side by side in one process; more of them mostly fight for the interpreter lock."""
ATTEMPTS_PER_TURN = 32
"""Attempts of a branch before it lets others run, if it never had to wait: about a quarter of a ms."""
LINGER_MS = 1_000
"""A wait no longer than this keeps the run in memory (it holds no slot): replaying it would cost more."""
RESULT_POLL_FIRST_MS = 10
RESULT_POLL_MAX_MS = 500
"""Waits between looks at a run that another process drives, doubling from the first to the last."""
REPORT_MS = 5_000
"""Between two heartbeats of an attempt, or two reports of its progress, that are written: each is an entry."""
SNAPSHOT_BYTES_MIN = 64 * 1024
"""Journal bytes since the last snapshot before one is taken at all: replaying less takes milliseconds."""
PENDING_SIGNALS_MAX = 10_000
"""Of one run: they are read together when a worker takes the run over."""
SWEEP_MS = 60_000
SWEEP_MAX = 200
"""How often a worker looks for runs whose retention is over, and how many it removes in one transaction."""
LIST_MAX = 1_000
"""Runs of one page of a list: bounds what one question costs the store and the caller."""
GRACE_MS = 10_000
"""What running bodies get at shutdown before they are cancelled; their runs are given back either way."""
CLAIM_MAX = 500
"""Runs of one claim: bounds the transaction and what a worker replays before it looks again."""
TRACEBACK_CHARACTERS_MAX = 20_000
"""Of a recorded failure: the end of a traceback says most, and journals are kept for long."""
CAUSES_MAX = 8
"""Depth of a recorded chain of causes."""
UNAVAILABLE_WAIT_MS = 1_000
"""Between looks at a store that does not answer."""
LEASE = "30s"
"""How long a worker may be silent on PostgreSQL: longer than a pause of the machine, short for who waits."""
CHECK_MS = 5_000
"""Between looks whether what is driven here is still held here: only a replaced run is not."""
DOUBT_MS = 30_000
"""How long a claim that was not answered may still be carried out: a server gives up its statements before."""
