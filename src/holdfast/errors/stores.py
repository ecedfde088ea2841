"""Trouble with stores, leases and data."""

from holdfast.errors.root import HoldfastError

MAKE_IT_FIT = "change the value, or the annotation it is read by"


class StoreError(HoldfastError):
    """The place where runs are kept could not do what was asked."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store did not answer. Whether the last write was applied is unknown; repeat it as it was."""

    code = "store_unavailable"
    store: str
    reason: str

    def __init__(self, *, store: str, reason: str) -> None:
        """Args: the store without secrets, and the reason in its own words."""
        super().__init__(
            f"the store {store} is not available: {reason}; asking again may work",
            store=store,
            reason=reason,
        )


class StoreOpenError(StoreError):
    """The store's file cannot be created or opened; nothing was written."""

    code = "store_open"
    path: str
    reason: str

    def __init__(self, *, path: str, reason: str) -> None:
        """Args: the database file, and the reason of the operating system."""
        super().__init__(
            f"{path} cannot be opened: {reason}; check that its directory exists and can be written",
            path=path,
            reason=reason,
        )


class StoreOwnedError(StoreError):
    """Another worker owns this SQLite file; nothing was opened."""

    code = "store_owned"
    path: str
    owner: str

    def __init__(self, *, path: str, owner: str) -> None:
        """Args: the database file, and who owns it (process id, host, since)."""
        super().__init__(
            f"{path} is owned by another worker ({owner}); stop that worker, or open it as a client "
            'with worker="auto" or worker=False: what you start then runs there',
            path=path,
            owner=owner,
        )


class StoreRefusedError(StoreError):
    """This value can never be written; everything else in its group was."""

    code = "store_refused"
    reason: str

    def __init__(self, *, reason: str) -> None:
        """Args: the driver's reason."""
        super().__init__(
            f"the store can not hold this value: {reason}; "
            "change it, or keep it elsewhere and pass its address",
            reason=reason,
        )


class StoreConnectError(StoreError):
    """The store's server cannot be reached, or does not let this user in; nothing was written."""

    code = "store_connect"
    store: str
    reason: str

    def __init__(self, *, store: str, reason: str) -> None:
        """Args: the store without secrets, and the reason of the driver or the server."""
        super().__init__(
            f"the store {store} cannot be opened: {reason}; "
            "check its host, port, user, password, database and rights",
            store=store,
            reason=reason,
        )


class LeaseLostError(HoldfastError):
    """A worker's lease has expired; what it had not committed is void."""

    code = "lease_lost"
    worker: str

    def __init__(self, *, worker: str) -> None:
        """Args: the identity whose lease it was."""
        super().__init__(
            f"the lease of worker {worker!r} has expired; others go on with its runs, and this process takes "
            "a new identity: nothing is to be done here",
            worker=worker,
        )


class FormatError(HoldfastError):
    """Stored data that this version cannot read: damaged, foreign or newer. It was not touched."""

    code = "format"
    subject: str
    reason: str
    fix: str

    def __init__(self, *, subject: str, reason: str, fix: str) -> None:
        """Args: which file or entry, what is wrong with it, and the way out."""
        super().__init__(f"{subject}: {reason}; {fix}", subject=subject, reason=reason, fix=fix)


class CodecError(HoldfastError):
    """A value that cannot be turned into a payload, or a payload not into the asked type."""

    code = "codec"
    path: str
    reason: str
    fix: str

    def __init__(self, *, path: str, reason: str, fix: str = MAKE_IT_FIT) -> None:
        """Args: where in the value (`$` is the value itself), what is wrong there, and the way out."""
        super().__init__(f"{reason} - at `{path}`; {fix}", path=path, reason=reason, fix=fix)
