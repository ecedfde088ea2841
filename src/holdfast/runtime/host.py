"""What a driver needs of the worker that it belongs to, and the other way round."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from holdfast.core.children import Awaited
from holdfast.core.effects import StartAttempt
from holdfast.core.events import Event
from holdfast.core.run import Branch, Run
from holdfast.ports import Timer
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.starts import Definable
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import InboxRow, NewRun, RunRecord


class Driven(Protocol):
    """A run that this worker drives, as the worker sees it."""

    record: RunRecord
    run: Run

    def begin(self, effect: StartAttempt) -> None:
        """Start an attempt that waited for its due time and a slot; nothing if it is not owed any more."""
        ...


class Host(Protocol):
    """The worker, as a driver sees it."""

    group: GroupCommit
    attempts: Attempts
    is_draining: bool
    has_lapsed: Callable[[], bool]

    def now_ms(self) -> int:
        """The store's clock."""
        ...

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> Timer:
        """Call `fn` when that much time has passed."""
        ...

    def read_inbox(self, key: int, after: int) -> Awaitable[list[InboxRow]]:
        """The messages of a run after a number, however long the store takes."""
        ...

    async def new_child(
        self,
        record: RunRecord,
        awaited: Awaited,
        position: int,
        target: Definable | str,
        value: object,
        *,
        detach: bool,
        queue: str | None = None,
    ) -> NewRun:
        """A run of another workflow, to be inserted with an entry of `record` that comes after `position`.

        It is for workers of `queue`; default those of the run's own.

        Raises:
            WorkflowNotFoundError: Nobody knows that workflow.
            InputError: The input does not fit.
        """
        ...

    def encode_input(self, workflow: str, value: object) -> bytes:
        """Encode an input for a workflow that is known here; raises `InputError`."""
        ...

    def decode_output(self, workflow: str, payload: bytes) -> Any:  # noqa: ANN401 - typed by the workflow
        """Decode the output of a run of a workflow; plain data where that is not known here."""
        ...

    def message_id(self) -> str:
        """A new name, never given twice."""
        ...

    async def begin_anew(self, record: RunRecord, new: NewRun) -> None:
        """Put a new run in the place of one that is held here; it keeps its messages, and is due at once."""
        ...

    def expect_mail(self) -> None:
        """Other runs were sent messages or started from here: look for what is new."""
        ...

    def nudge(self) -> None:
        """Something that may be claimed has changed."""
        ...

    def spawn(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a branch in a task that the worker owns."""
        ...

    def save_snapshot(self, driver: Driven, state: bytes) -> None:
        """Keep the encoded state of the run at its position, when there is time; it may be lost."""
        ...

    def left(self, driver: Driven, *, due_at_ms: int | None) -> None:
        """The driver is done: its run is over, given back (due then), or no longer ours."""
        ...

    def begin_when_free(self, driver: Driven, effect: StartAttempt) -> None:
        """Call `driver.begin(effect)` now, or when a slot is free."""
        ...

    def occupy(self, slots: int) -> None:
        """A driver has begun (1) or ceased (-1) to occupy a slot, or (0) has nothing to do any more."""
        ...


class Driving(Protocol):
    """The driver, as the body of a durable function sees it."""

    run: Run
    record: RunRecord

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way: no commit, no look at the inbox, no event that waits for either."""
        ...

    @property
    def is_reading(self) -> bool:
        """Whether there are messages that are not read yet: nothing begins until they are."""
        ...

    def must_stop(self, branch: Branch) -> bool:
        """Whether nothing new may begin there: it is paused, or this worker is about to stop."""
        ...

    def note_slot(self) -> None:
        """The body waits, or runs again."""
        ...

    def operate(self, events: Sequence[Event]) -> None:
        """Decide these events with the next commit."""
        ...
