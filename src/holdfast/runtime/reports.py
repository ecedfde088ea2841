"""What bodies report while they run: progress for people, heartbeats for their next attempt.

A report is an entry, so that only who holds the run can write it, and the next attempt sees it wherever that is
made. Of many in a short time the last one counts: it is written when the time is over, or with the outcome.
"""

from typing import Literal

from holdfast.core.events import BodyReported, Event
from holdfast.ports import Timer
from holdfast.runtime.host import Driving, Host
from holdfast.runtime.limits import REPORT_MS

Kind = Literal["progress", "heartbeat"]
_Place = tuple[str, str, Kind]
"""Branch, key of the operation or "", and kind. A branch has one progress, whoever reports it."""


class Reports:
    """Takes reports of the bodies of one run.

    Attributes:
        latest: Those that are not written yet.
    """

    __slots__ = ("_driver", "_host", "_timers", "latest")

    def __init__(self, driver: Driving, host: Host) -> None:
        """Args: who drives the run, and the worker."""
        self._driver = driver
        self._host = host
        self.latest: dict[_Place, BodyReported] = {}
        self._timers: dict[_Place, Timer] = {}

    def take(self, event: BodyReported) -> None:
        """Take a report of an attempt, or of an operation of it."""
        place: _Place = (event.branch, event.key if event.kind == "heartbeat" else "", event.kind)
        self.latest.pop(place, None)
        self.latest[place] = event
        if place not in self._timers:
            self._write(place)

    def rest(self, branch: str, key: str | None = None) -> list[Event]:
        """What is not written yet of a branch, or of one operation: to be recorded before its outcome.

        Whatever is reported next is of another attempt, and is written at once.
        """
        for place in [place for place in self._timers if place[0] == branch and key in {None, place[1]}]:
            self._timers.pop(place).cancel()
        places = [place for place in self.latest if place[0] == branch and key in {None, place[1]}]
        return [self.latest.pop(place) for place in places]

    def stop(self) -> None:
        """Write nothing more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.latest.clear()

    def _write(self, place: _Place) -> None:
        """Write the latest report, and nothing more for some time."""
        self._timers.pop(place, None)
        event = self.latest.pop(place, None)
        if event is not None:
            self._timers[place] = self._host.call_later(REPORT_MS, lambda: self._write(place))
            self._driver.operate([event])
