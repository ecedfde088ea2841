"""The contract as a whole: choose the class that fits the store, and say how it is made."""

from holdfast.testing.contract.addressing import Addressing
from holdfast.testing.contract.appends import Appends
from holdfast.testing.contract.children import Children
from holdfast.testing.contract.claims import Claims
from holdfast.testing.contract.endings import Endings
from holdfast.testing.contract.groups import Groups
from holdfast.testing.contract.leases import Leases, Reaping
from holdfast.testing.contract.messages import Messages
from holdfast.testing.contract.new_runs import NewRuns
from holdfast.testing.contract.owning import Owning
from holdfast.testing.contract.queues import Queues
from holdfast.testing.contract.reads import Reads
from holdfast.testing.contract.recovery import Recovery
from holdfast.testing.contract.removal import Removal
from holdfast.testing.contract.reopening import Reopening
from holdfast.testing.contract.replacing import Replacing
from holdfast.testing.contract.sharing import Sharing
from holdfast.testing.contract.times import Times
from holdfast.testing.contract.unheld import Unheld
from holdfast.testing.contract.workers import Workers


class StoreContract(
    Addressing,
    Appends,
    Children,
    Claims,
    Endings,
    Groups,
    Messages,
    NewRuns,
    Queues,
    Reads,
    Recovery,
    Removal,
    Reopening,
    Replacing,
    Times,
    Unheld,
):
    """What every store does."""


class OwnedStoreContract(StoreContract, Owning):
    """What a store does that one process drives alone: who opens it frees the runs of who had it before."""


class SharedStoreContract(StoreContract, Leases, Reaping, Sharing, Workers):
    """What a store does that several processes drive at once: its `lease` is `place.LEASE`."""
