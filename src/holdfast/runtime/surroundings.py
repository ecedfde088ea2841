"""What the body of a durable function lives in, and how it may end besides with an outcome."""

from typing import NamedTuple

from holdfast.runtime.context import RunFacts
from holdfast.runtime.host import Driving, Host
from holdfast.runtime.reports import Reports
from holdfast.stores.records import NewRun


class Continued:
    """The body wants its run to begin anew, with another input."""

    def __init__(self, branch: str, payload: bytes) -> None:
        """Args: whose body, and the input, encoded."""
        self.branch = branch
        self.payload = payload


class Surroundings(NamedTuple):
    """What all bodies of a run have around them.

    Attributes:
        driver: Who drives the run.
        host: The worker.
        facts: About the run.
        reports: Takes what bodies report.
        children: Where to put runs that are to be inserted, by the places that ask for them.
    """

    driver: Driving
    host: Host
    facts: RunFacts
    reports: Reports
    children: dict[str, NewRun]
