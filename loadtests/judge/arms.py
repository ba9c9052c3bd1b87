"""Samples as they come: batches of requests of one arm or two, and how they are cut into blocks.

Letters: ``N`` requests of an arm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loadtests.judge.blocks import BLOCK, BLOCKS, ArmBlock, Block, arm_block
from loadtests.judge.errors import JudgeError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """Requests of one arm, in any order.

    Attributes
    ----------
    started_s
        ``(N,) float64``, seconds on a clock that both arms share.
    latency_ms
        ``(N,) float64``; what it is for a failed request does not matter. NaN for one that did not fail means that its result is missing.
    ok
        ``(N,) bool``.
    score
        ``(N,) float64``, what the model answered; None where scores are not judged. NaN: this request has none.
    lag_ms
        ``(N,) float64``, how late the generator sent each request; None where it does not measure it.
    endpoint
        ``(N,) str``; None where there is only one.
    refused
        ``(N,) bool``: the service refused it as the caller's mistake (4xx). That is no failure: the request is `ok`, and its latency
        counts. None where it is not known.
    """

    started_s: Floats
    latency_ms: Floats
    ok: NDArray[np.bool_]
    score: Floats | None = None
    lag_ms: Floats | None = None
    endpoint: NDArray[np.str_] | None = None
    refused: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check that the columns fit together.

        Raises
        ------
        JudgeError
            They do not, or a value is impossible.
        """
        rows = len(self.started_s)
        for name, column in self._columns().items():
            if column.ndim != 1 or len(column) != rows:
                raise JudgeError(f"column {name} has shape {column.shape}, started_s has {rows} rows: give one value a request")
        for name, flags in (("ok", self.ok), ("refused", self.refused)):
            if flags is not None and flags.dtype != np.bool_:
                raise JudgeError(f"column {name} is {flags.dtype}, it must be bool")
        if not np.isfinite(self.started_s).all():
            raise JudgeError("column started_s holds values that are no time; every request has a start")
        latency = self.latency_ms[self.ok]
        if (latency < 0).any() or np.isinf(latency).any():
            raise JudgeError("column latency_ms is negative or infinite for a request that is ok; mark failed requests as not ok")

    def __len__(self) -> int:
        """Count requests."""
        return len(self.started_s)

    def _columns(self) -> dict[str, NDArray[np.generic]]:
        names = ("started_s", "latency_ms", "ok", "score", "lag_ms", "endpoint", "refused")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def rows(self, chosen: NDArray[np.generic]) -> Arm:
        """Some of the requests: by mask or by number."""
        return Arm(**{name: column[chosen] for name, column in self._columns().items()})

    def joined(self, later: Arm) -> Arm:
        """These requests and then others."""
        mine, others = self._columns(), later._columns()
        if len(self) and len(later) and mine.keys() != others.keys():
            raise JudgeError(f"one batch has the columns {', '.join(mine)}, a later one {', '.join(others)}: give the same each time")
        if not len(self):
            return later
        return self if not len(later) else Arm(**{name: np.concatenate([mine[name], others[name]]) for name in mine})

    def missing(self) -> NDArray[np.bool_]:
        """Requests whose result is missing, ``(N,) bool``."""
        return np.asarray(self.ok & np.isnan(self.latency_ms))

    def block(self) -> ArmBlock:
        """All of these requests as a block of one lane."""
        score = None if self.score is None else self.score[None]
        return arm_block(self.latency_ms[None], ~self.ok[None], score, refused=None if self.refused is None else self.refused[None])


def no_requests() -> Arm:
    """Return an arm without a request."""
    return Arm(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))


@dataclass(frozen=True)
class Batch:
    """Requests since the batch before: of the canary, and of the baseline where two arms are judged.

    Attributes
    ----------
    unsent, unanswered
        Further requests of both that were due and never sent, and that were sent and of which nobody knows what came.
    lost_workers
        Processes of the load generator that ended before they had told everything.
    """

    canary: Arm = field(default_factory=no_requests)
    baseline: Arm = field(default_factory=no_requests)
    unsent: int = 0
    unanswered: int = 0
    lost_workers: int = 0


class Cutter:
    """Cuts requests into blocks in the order of their start; what does not fill a block waits for the next batch.

    Parameters
    ----------
    two_arms
        Whether a block needs requests of the baseline.
    """

    def __init__(self, *, two_arms: bool) -> None:
        self._two_arms = two_arms
        self._waiting = [no_requests(), no_requests()]
        self._seen = np.zeros(2, dtype=np.int64)

    def cut(self, batch: Batch) -> list[Block]:
        """Take in a batch; the blocks that are full."""
        arms = []
        for kept, new in zip(self._waiting, (batch.canary, batch.baseline), strict=True):
            joined = kept.joined(new)
            arms.append(joined.rows(np.argsort(joined.started_s, kind="stable")))
        starts = np.concatenate([arm.started_s for arm in arms])
        of_baseline = np.repeat([False, True], [len(arm) for arm in arms])[np.argsort(starts, kind="stable")]
        # How many of each arm have started by each request, and where the rarer arm completes a block.
        so_far = np.stack([np.cumsum(~of_baseline), np.cumsum(of_baseline)], axis=1)
        blocks, done = [], np.zeros(2, dtype=np.int64)
        judged = 2 if self._two_arms else 1
        while True:
            size = max(BLOCK, int((self._seen + done)[:judged].min()) // BLOCKS)
            full = max(int(np.searchsorted(so_far[:, arm], done[arm] + size)) for arm in range(judged))
            if full >= len(so_far):
                break
            canary, baseline = (arm.rows(np.arange(done[i], so_far[full, i])).block() for i, arm in enumerate(arms))
            blocks.append(Block(canary, baseline))
            done = so_far[full]
        self._seen += done
        self._waiting = [arm.rows(np.arange(done[number], len(arm))) for number, arm in enumerate(arms)]
        return blocks
