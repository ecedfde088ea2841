"""The structures that runs are pinned to, with the code that is deployed here."""

import logging
from collections.abc import Mapping

from holdfast.definition.workflow import Workflow
from holdfast.errors import FormatError
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.stores.base import Store
from holdfast.stores.records import Definition, RunRecord

LOGGER = logging.getLogger("holdfast.worker")


class Definitions:
    """Workflows of this process by fingerprint: the deployed ones, and older structures of theirs."""

    def __init__(self, store: Store, bound: Mapping[str, BoundWorkflow]) -> None:
        """Args: where structures are kept, and the deployed workflows by name."""
        self._store = store
        self._bound = bound
        self._pinned: dict[str, BoundWorkflow | None] = {
            each.workflow.fingerprint: each for each in bound.values()
        }

    async def save(self, *, current: bool) -> None:
        """Tell the store which workflows are deployed here; `current` makes them what starts by name get."""
        for bound in self._bound.values():
            workflow = bound.workflow
            definition = Definition(
                workflow.name, workflow.fingerprint, workflow.structure(), bound.input_schema()
            )
            await self._store.save_definition(definition, current=current)

    def undrivable(self) -> list[str]:
        """Fingerprints of structures that call tasks which are not deployed here."""
        return [mark for mark, bound in self._pinned.items() if bound is None]

    async def bound_to(self, record: RunRecord) -> BoundWorkflow | None:
        """The structure a run is pinned to, with the deployed code; None where tasks of it are gone.

        Raises:
            FormatError: The structure is not in the store, or cannot be read.
        """
        mark = record.fingerprint
        if mark not in self._pinned:
            self._pinned[mark] = await self._load(record)
        return self._pinned[mark]

    async def missing_tasks(self, record: RunRecord) -> list[str]:
        """Tasks that the structure of a run calls and that are not deployed here, where its workflow is."""
        stored = await self._store.find_definition(record.workflow, record.fingerprint)
        if stored is None or record.workflow not in self._bound:
            return []
        deployed = list(self._bound[record.workflow].workflow.tasks.values())
        return Workflow.from_structure(stored.structure, tasks=deployed).missing_tasks()

    async def _load(self, record: RunRecord) -> BoundWorkflow | None:
        stored = await self._store.find_definition(record.workflow, record.fingerprint)
        if stored is None:
            raise FormatError(
                subject=f"run {record.id!r}",
                reason=f"its definition {record.fingerprint} is not in the store",
                fix="restore the table `definitions` from a backup",
            )
        deployed = self._bound[record.workflow].workflow.tasks.values()
        workflow = Workflow.from_structure(stored.structure, tasks=list(deployed))
        missing = workflow.missing_tasks()
        if missing:
            LOGGER.warning(
                "runs of %s with definition %s wait: task %s is not deployed here",
                record.workflow,
                record.fingerprint,
                ", ".join(missing),
            )
            return None
        return BoundWorkflow(workflow)
