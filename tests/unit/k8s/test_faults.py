"""Random faults in random order: whatever happens, weights stay right and the end is one of the right ends."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.errors import Conflict, RolloutError, Unavailable
from k8s.rollout.arms import Weights
from k8s.rollout.disk import DiskJournal
from k8s.rollout.record import Request
from tests.rollouts import LATENCY_ALONE, START_S, Town, is_settled, plan, roll_out

MAX_ENGINES = 30


class Crash(BaseException):
    """The engine's process ends here; not an Exception, since nothing may catch it."""


@dataclass(frozen=True)
class Fault:
    """Something that happens `at_s` after the start, for `lasts_s`."""

    at_s: int
    kind: str
    lasts_s: int


KINDS = (
    "no answer", "asked to wait", "conflict", "crash before", "crash after", "canary away", "canary deleted", "canary restarts",
    "baseline deleted", "stable away", "weights changed", "pause and resume", "abort",
)  # fmt: skip
FAULTS = st.lists(st.builds(Fault, st.integers(0, 60), st.sampled_from(KINDS), st.integers(1, 15)), max_size=5)


class Faulty:
    """Lets faults happen to a town."""

    def __init__(self, town: Town, faults: list[Fault]) -> None:
        self._town, self._left = town, dict(enumerate(faults))
        town.before, town.after, town.on_sleep = self.before, self.after, self.on_sleep

    def _now(self, *kinds: str) -> list[tuple[int, Fault]]:
        since_s = self._town.now_s() - START_S
        return [(number, fault) for number, fault in self._left.items() if fault.kind in kinds and fault.at_s <= since_s]

    def before(self, call: str) -> None:
        for number, fault in self._now("no answer", "asked to wait", "conflict", "crash before"):
            if fault.kind == "crash before" or fault.at_s + fault.lasts_s < self._town.now_s() - START_S:
                del self._left[number]
            if fault.kind == "crash before":
                raise Crash
            if call != "look" and number in self._left:
                if fault.kind == "conflict":
                    raise Conflict("409")
                raise Unavailable("503", retry_after_s=2.0 if fault.kind == "asked to wait" else None)

    def after(self, call: str) -> None:
        for number, _ in self._now("crash after"):
            del self._left[number]
            raise Crash

    def on_sleep(self, town: Town) -> None:
        arms = town.arms
        others = ("canary away", "canary deleted", "canary restarts", "baseline deleted", "stable away", "weights changed", "abort")
        for number, fault in self._now(*others, "pause and resume"):
            del self._left[number]
            arm = fault.kind.split()[0]
            if fault.kind == "weights changed":
                town.facts["weights"] = {"stable": 100, "baseline": 0, "canary": 0}
            elif fault.kind == "abort":
                self._ask("abort", number)
            elif fault.kind == "pause and resume":
                self._ask("pause", number)
                self._left[100 + number] = Fault(fault.at_s + fault.lasts_s, "resume", 0)
            elif arm in arms:
                if fault.kind.endswith("away"):
                    arms[arm].update(ready=0, ready_s=town.now_s() + fault.lasts_s)
                elif fault.kind.endswith("restarts"):
                    arms[arm]["restarts"] += 1
                else:
                    del arms[arm]
        for number, _ in self._now("resume"):
            del self._left[number]
            self._ask("resume", number)

    def _ask(self, wish: str, number: int) -> None:
        request = Request.model_validate({"id": str(number), "wish": wish, "by": "a person", "at_s": self._town.now_s()})
        DiskJournal(self._town.folder / "journal").ask(request)


@settings(max_examples=40, deadline=None)
@given(faults=FAULTS, slow=st.sampled_from([1.0, 2.0]))
def test_no_row_of_faults_promotes_a_bad_release_or_leaves_anything_behind(faults: list[Fault], slow: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        town = Town(Path(name), slow=slow, slow_from_pct=10)
        Faulty(town, faults)
        steps = [{"weight_pct": 0, "samples": 800, "timeout_s": 60}, {"weight_pct": 10, "samples": 800, "timeout_s": 60}]
        for engine in range(MAX_ENGINES):
            try:
                record = roll_out(town, plan(step=steps, objectives=LATENCY_ALONE), name=f"engine {engine}")
                break
            except Crash:
                town.sleep(1)
            except RolloutError:  # it gave up, and a Job starts the next one
                town.sleep(5)
        else:
            raise AssertionError(f"{MAX_ENGINES} engines did not end it")
        is_settled(town, record)
        assert town.weights == Weights()
        assert slow == 1.0 or record.outcome == "rolled_back"
        assert faults or record.outcome == ("promoted" if slow == 1.0 else "rolled_back")
