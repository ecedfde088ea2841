"""What bodies do, by seed, run, step and attempt alone, so that a repeated attempt does the same again."""

import msgspec

SLOW_S = 8.0
"""What a body takes at most, unless it exceeds its time-out or hangs."""
DEEDS = {
    "returns": 55,
    "slow": 20,
    "raises": 12,
    "unencodable": 1,
    "kills": 3,
    "blocks": 3,
    "overruns": 3,
    "hangs": 2,
    "defies": 1,
}
"""How often bodies do what."""
BLOCKS_S = (1.0, 12.0, 19.0, 50.0)
"""How long a body blocks its event loop: less and more than a heartbeat, the self-stop and the lease."""


class Deed(msgspec.Struct, frozen=True):
    """What a body does.

    Attributes:
        kind: `returns`, `raises`, `overruns` (its time-out), `hangs` (until cancelled), `defies` (being
            cancelled, and returns), `unencodable`, `kills` or `blocks`.
        seconds: How long it takes, or blocks.
    """

    kind: str
    seconds: float = 0.0
