"""What a canary must not do, whatever its latencies are: be restarted again and again, grow without end."""

from __future__ import annotations

from k8s.rollout.arms import Arm, ArmState
from k8s.rollout.plan_tables import Health

LOOKS_IN_A_ROW = 3
"""A single reading of memory may fall into a garbage collection or a burst of large requests."""


class HealthWatch:
    """Watches a canary, beside the arm that it is compared with.

    Parameters
    ----------
    limits
        The plan's.
    """

    def __init__(self, limits: Health, arm: Arm = "canary") -> None:
        self._limits, self._arm = limits, arm
        self._warm: dict[str, int] = {}
        self._over = 0

    def restart(self) -> None:
        """Forget how large the arms were when warm: they are new."""
        self._warm, self._over = {}, 0

    def complaint(self, canary: ArmState, beside: ArmState) -> str | None:
        """Say what is wrong with the canary, in words; None: nothing.

        Parameters
        ----------
        beside
            State of the arm that it is compared with.
        """
        limits = self._limits
        if canary.restarts > limits.max_restarts:
            reason = f": {canary.reason}" if canary.reason else ""
            return f"the {self._arm} was restarted {canary.restarts} times, {limits.max_restarts} are allowed{reason}"
        if canary.memory_bytes is None:
            return None
        if limits.max_memory_bytes is not None and canary.memory_bytes > limits.max_memory_bytes:
            return f"the {self._arm} has {_mib(canary.memory_bytes)} of memory, {_mib(limits.max_memory_bytes)} are allowed"
        growth_pct = self._growth_pct("canary", canary.memory_bytes)
        beside_pct = 0.0 if beside.memory_bytes is None else max(self._growth_pct("beside", beside.memory_bytes), 0.0)
        self._over = self._over + 1 if growth_pct - beside_pct > limits.max_memory_growth_pct else 0
        if self._over < LOOKS_IN_A_ROW:
            return None
        return (
            f"the {self._arm}'s memory grew by {growth_pct:.0f} % since it was warm, to {_mib(canary.memory_bytes)}, the other arm's by"
            f" {beside_pct:.0f} %; {limits.max_memory_growth_pct:g} points more are allowed"
        )

    def _growth_pct(self, arm: str, now_bytes: int) -> float:
        warm = self._warm.setdefault(arm, now_bytes)
        return 100.0 * (now_bytes - warm) / max(warm, 1)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
