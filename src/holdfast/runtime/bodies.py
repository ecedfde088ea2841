"""The bodies of one run that live in this process, and what they want of the run's commits."""

from collections.abc import Sequence

from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Entry, Operated
from holdfast.core.events import AttemptEnded, Event
from holdfast.runtime.bindings import BoundStep, BoundWorkflow
from holdfast.runtime.body import Body
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext
from holdfast.runtime.durable import Context
from holdfast.runtime.host import Driving, Host
from holdfast.runtime.reports import Reports
from holdfast.runtime.starts import continued
from holdfast.runtime.surroundings import Continued, Surroundings
from holdfast.stores.records import Append, NewRun


class Bodies:
    """Functions with a `Context` that run now, by branch.

    Attributes:
        children: Runs that they want to start, by the places that ask for them.
        wants_anew: Whether one of them wants the run to begin anew.
    """

    __slots__ = (
        "_continued",
        "_driver",
        "_facts",
        "_fresh",
        "_host",
        "_live",
        "_reports",
        "children",
    )

    def __init__(self, driver: Driving, host: Host, facts: RunFacts, reports: Reports) -> None:
        """Args: who drives the run, the worker, facts about the run, and what its bodies report."""
        self._driver = driver
        self._host = host
        self._facts = facts
        self._reports = reports
        self._live: dict[str, Body] = {}
        self._fresh: list[Operated] = []
        self.children: dict[str, NewRun] = {}
        self._continued: Continued | None = None

    @property
    def waiting(self) -> int:
        """How many of them wait for what is recorded elsewhere, or for time."""
        return sum(body.is_waiting for body in self._live.values())

    @property
    def wants_anew(self) -> bool:
        """See the class."""
        return self._continued is not None

    async def run(self, effect: StartAttempt, step: BoundStep) -> tuple[AttemptEnded, Sequence[Event]] | None:
        """Call one; its outcome, and what is to be recorded before that. None if the run is to begin anew."""
        driver = self._driver
        branch = driver.run.branches[effect.branch]
        surroundings = Surroundings(driver, self._host, self._facts, self._reports, self.children)
        body = self._live[effect.branch] = Body(surroundings, effect)
        context = TaskContext(self._facts, effect, branch.heartbeat)
        CURRENT.set(context)
        try:
            event = await body.run(Context(context, body), step, branch.value)
        finally:
            if self._live.get(effect.branch) is body:
                del self._live[effect.branch]
        if isinstance(event, Continued):
            self._continued = event
            return None
        return event, body.take_events()

    def note(self, entries: Sequence[Entry], append: Append) -> None:
        """These are committed; the bodies are told when the run may go on."""
        self._fresh += [entry for entry in entries if isinstance(entry, Operated)]
        if append.children:
            inserted = {child.id for child in append.children}
            for place in [place for place, child in self.children.items() if child.id in inserted]:
                del self.children[place]

    def tell(self) -> None:
        """Tell the bodies what was committed."""
        fresh, self._fresh = self._fresh, []
        for entry in fresh:
            if entry.branch in self._live:
                self._live[entry.branch].applied(entry)

    def settled(self) -> None:
        """Nothing is on its way in the driver."""
        for body in list(self._live.values()):
            body.settled()

    async def begin_anew(self, bound: BoundWorkflow) -> None:
        """Put the run's next incarnation in its place, as one of the bodies wants."""
        if self._continued is not None:
            record = self._driver.record
            new = continued(self._driver.run, record, bound.workflow, self._continued.payload)
            await self._host.begin_anew(record, new)

    def drop(self) -> None:
        """Forget them: they are cancelled."""
        for body in self._live.values():
            body.drop()
        self._live.clear()
        self._fresh.clear()
