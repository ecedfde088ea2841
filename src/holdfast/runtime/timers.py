"""The clocks of one run: each calls when the store's clock has reached its due time, never earlier."""

from collections.abc import Callable

from holdfast.core.effects import ArmTimer
from holdfast.ports import Timer
from holdfast.runtime.host import Host


class Timers:
    """One timer for each branch and each operation, and one for the run itself."""

    __slots__ = ("_fire", "_host", "_timers")

    def __init__(self, host: Host, fire: Callable[[ArmTimer], None]) -> None:
        """Args: whose clock it is, and what is called with what has become due."""
        self._host = host
        self._fire = fire
        self._timers: dict[tuple[str, str], tuple[ArmTimer, Timer]] = {}

    def arm(self, effect: ArmTimer) -> None:
        """Wait for its due time, in place of what the branch waited for before."""
        known, timer = self._timers.get((effect.branch, effect.key), (None, None))
        if known == effect:
            return
        if timer is not None:
            timer.cancel()
        self.wait(effect, max(effect.due_at_ms - self._host.now_ms(), 0))

    def wait(self, effect: ArmTimer, delay_ms: float) -> None:
        """Look again when so much time has passed."""
        timer = self._host.call_later(delay_ms, lambda: self._look(effect))
        self._timers[effect.branch, effect.key] = (effect, timer)

    def _look(self, effect: ArmTimer) -> None:
        # Only the store's clock decides what is due; the loop's timer may be a little ahead of it.
        left_ms = effect.due_at_ms - self._host.now_ms()
        if left_ms > 0:
            self.wait(effect, left_ms)
            return
        del self._timers[effect.branch, effect.key]
        self._fire(effect)

    def stop(self) -> None:
        """Cancel all of them."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
