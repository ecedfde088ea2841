"""What is recorded of a body when it begins, until it has asked for all of it again."""

from collections.abc import Iterable

from holdfast.core.run import SCOPE, Operation
from holdfast.runtime.scopes import Scope


class Replay:
    """Recorded operations by the path of their scope, in order; a scope takes its own when it begins."""

    __slots__ = ("_by_scope", "_left")

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Args: those of the branch, in the order of their first entries."""
        self._by_scope: dict[str, list[Operation]] = {}
        self._left = 0
        for operation in operations:
            if operation.kind not in {"scopes", "patch"}:
                path = operation.key[: operation.key.rfind(SCOPE) + 1]
                self._by_scope.setdefault(path, []).append(operation)
                self._left += 1

    def take(self, path: str) -> list[Operation]:
        """What is recorded of a scope."""
        return self._by_scope.pop(path, [])

    def given(self) -> None:
        """One of them was given to the body."""
        self._left -= 1

    def abandon(self, path: str) -> None:
        """What is recorded of a scope, and of those within it, will not be asked for."""
        for each in [each for each in self._by_scope if each.startswith(path)]:
            self._left -= len(self._by_scope.pop(each))

    def not_asked_for(self, scope: Scope) -> Operation | None:
        """Something within a scope, or around it, that is to be asked for before anything new there."""
        if not self._left:
            return None
        passed = [each for path, each in self._by_scope.items() if path.startswith(scope.path)]
        around = scope.parent
        while around is not None:
            # Beside what is open there now, nothing is to come before whatever is new.
            beside = [path for path in self._by_scope if path.startswith(around.path)]
            passed += [around.rest] if around.rest else []
            passed += [self._by_scope[path] for path in beside if not path.startswith(around.open)]
            around = around.parent
        return passed[0][0] if passed else None
