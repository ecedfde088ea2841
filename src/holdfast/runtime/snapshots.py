"""When the state of a run is cached: not before its journal has grown by as much as the cache costs."""

from collections.abc import Sequence

from holdfast.codecs.snapshots import encode_run
from holdfast.runtime.host import Driven, Host
from holdfast.runtime.limits import SNAPSHOT_BYTES_MIN


class Snapshots:
    """Counts what one run writes."""

    __slots__ = ("_host", "_unsaved_bytes", "_unsaved_bytes_max")

    def __init__(self, host: Host) -> None:
        """Args: who keeps the snapshots."""
        self._host = host
        self._unsaved_bytes = 0
        self._unsaved_bytes_max = SNAPSHOT_BYTES_MIN

    def take(self, driver: Driven, entries: Sequence[bytes]) -> None:
        """These are written: cache the state if that is enough; next after as many bytes as it has itself."""
        for entry in entries:
            self._unsaved_bytes += len(entry)
        if self._unsaved_bytes > self._unsaved_bytes_max:
            state = encode_run(driver.run)
            self._unsaved_bytes, self._unsaved_bytes_max = 0, max(len(state), SNAPSHOT_BYTES_MIN)
            self._host.save_snapshot(driver, state)
