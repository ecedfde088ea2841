"""The root of the tree, and what is wrong with a definition or a call."""

from collections.abc import Callable, Sequence
from typing import ClassVar


class HoldfastError(Exception):
    """Root of everything Holdfast raises on its own account."""

    code: ClassVar[str] = "holdfast"

    def __init__(self, message: str, **facts: object) -> None:
        """Keep the message and the facts it was built from."""
        super().__init__(message)
        self.facts = facts
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Callable[..., "HoldfastError"], tuple[object, ...]]:
        """Rebuild with message, facts and notes, so that a pickled error is the same error."""
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[HoldfastError], message: str, attributes: dict[str, object]) -> HoldfastError:
    error = kind.__new__(kind)
    HoldfastError.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class Problem:
    """One thing wrong with a definition: which step, where in it, what, and a stable code."""

    __slots__ = ("code", "message", "path", "step")

    def __init__(self, *, step: str, path: str, code: str, message: str) -> None:
        """Args: step name or "", dotted path inside it, code, one sentence."""
        self.step = step
        self.path = path
        self.code = code
        self.message = message

    def __repr__(self) -> str:
        """Show as one line, the way `DefinitionError` prints it."""
        place = f"step {self.step!r}: " if self.step else ""
        return f"{place}{self.message} [{self.code}]"

    def __eq__(self, other: object) -> bool:
        """Two problems are equal when all four facts are."""
        return isinstance(other, Problem) and self._facts() == other._facts()

    def __hash__(self) -> int:
        """Hash the four facts."""
        return hash(self._facts())

    def _facts(self) -> tuple[str, str, str, str]:
        return (self.step, self.path, self.code, self.message)


class DefinitionError(HoldfastError):
    """A workflow, task or policy is not well formed; nothing was built."""

    code = "definition"
    subject: str
    problems: tuple[Problem, ...]

    def __init__(self, *, subject: str, problems: Sequence[Problem]) -> None:
        """Args: what was being built, and everything that is wrong with it."""
        lines = "".join(f"\n  - {problem!r}" for problem in problems)
        super().__init__(f"{subject} cannot be built:{lines}", subject=subject, problems=tuple(problems))


class UsageError(HoldfastError):
    """A call that can never work as written; nothing happened."""

    code = "usage"
    what: str
    fix: str

    def __init__(self, *, what: str, fix: str) -> None:
        """Args: what is wrong, and what to do instead."""
        super().__init__(f"{what}; {fix}", what=what, fix=fix)


class WorkflowError(Exception):
    """Raised by a task body to say of which type its failure is, and whether to try again.

    `type="fatal"` is never retried by `all`; any other type can be named in `Retry(error_equals=...)`.
    """

    def __init__(self, message: str, *, type: str = "WorkflowError", details: object = None) -> None:  # noqa: A002 - the word documents use
        """Args: message, type for retry patterns, and JSON-like details kept in the failure."""
        super().__init__(message)
        self.type = type
        self.details = details
