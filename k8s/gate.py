"""The judge for those who roll out by other means, Argo Rollouts and Flagger: both arms are loaded and judged as in a step of a rollout.

Who asks gets what is known by now, at once; load and judgement go on by themselves, in the one thread that calls `Gate.run`, for as long as
somebody asks. What a release is asked about is a `Subject`; a subject that was not asked about for a while is judged anew, with half of the
risk of the time before, for whoever asks then tries again.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from k8s.errors import Refused, RolloutError
from k8s.rollout.arms import Arm
from k8s.rollout.jury import Jury, samples, together
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Source
from k8s.rollout.ports import Look, Traffic
from loadtests.judge import Status, Verdict

TICK_S = 0.5
"""Between two looks: the generator writes about once a second."""

MAX_BEGINNINGS = 3
"""Times that a load is begun for one judgement. A generator may die once of a node that has no memory left; one that dies again and again
has a reason, which somebody must read."""

MAX_REMEMBERED = 100
"""Subjects that are remembered."""

MAX_ATTEMPT = 30
"""Each attempt has half of the risk of the one before; after a billionth nothing could be shown any more."""

READY_PATH, READY_LIMIT_S = "/readyz", 2.0

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Arms are in the cluster: no proxy of the environment lies between."""


@dataclass(frozen=True)
class Subject:
    """What is judged, from the first question to the last.

    Attributes
    ----------
    release
        What tells one release from the next: Argo's pod hash, Flagger's checksum.
    step
        What tells one analysis of a release from the next; empty where there is one.
    """

    release: str
    step: str = ""

    def __str__(self) -> str:
        """Return what a log line shows."""
        return f"{self.release}, step {self.step}" if self.step else self.release


@dataclass
class _Judgement:
    """One subject's way through load and jury; all but `found` belongs to the thread that judges."""

    subject: Subject
    attempt: int
    found: Mapping[str, Any]
    beginnings: int = 0
    jury: Jury | None = None
    since_s: float = 0.0
    warmed: dict[Arm, int] = field(default_factory=dict)
    is_warm: bool = False
    has_passed: bool = False
    is_final: bool = False


class Gate:
    """Judges one canary at a time. `ask` may be called by any thread, the others by one alone.

    Parameters
    ----------
    plan
        Its warm-up and its first step are what is done; its arms are those of the addresses that `traffic` was made with.
    idle_s
        Seconds without a question after which the load ends, and the next question begins anew.
    absent
        Says which arm is not there to be loaded yet, and why; None: all are.
    tell
        Takes a line for people each time something changes.
    """

    def __init__(
        self,
        plan: Plan,
        traffic: Mapping[Source, Traffic],
        *,
        idle_s: float = 300.0,
        absent: Callable[[], str | None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._plan, self._traffic, self._idle_s = plan, traffic, idle_s
        self._absent, self._now_s, self._tell = absent, now_s, tell
        self._lock = threading.Lock()
        self._present: _Judgement | None = None
        self._asked_s = 0.0
        self._past: deque[Subject] = deque(maxlen=MAX_REMEMBERED)
        self._attempts: dict[Subject, int] = {}
        self._loaded: _Judgement | None = None

    def ask(self, subject: Subject) -> Mapping[str, Any]:
        """Say what is known by now, without waiting; a subject that nobody asked about begins with it.

        The newest subject is judged. One that gave way to it is told so, and does not take the load back: of two that are asked about in
        turns neither would ever be decided.
        """
        with self._lock:
            now_s = self._now_s()
            present = self._present
            if present is None or now_s - self._asked_s > self._idle_s:
                self._past.clear()
                present = self._begin(subject)
            elif subject != present.subject:
                if subject in self._past:
                    return _answer(subject, "inconclusive", f"Judged no longer: {present.subject} came after it.")
                self._past.append(present.subject)
                present = self._begin(subject)
            self._asked_s = now_s
            return present.found

    def run(self, stop: threading.Event) -> None:
        """Load and judge until told to stop."""
        try:
            while not stop.wait(TICK_S):
                self.tick()
        finally:
            self.close()

    def tick(self) -> None:
        """Do what is due: begin a load, look at one, judge, end one."""
        with self._lock:
            present = self._present
            idle = present is not None and self._now_s() - self._asked_s > self._idle_s
        if present is None or idle or present is not self._loaded:
            self._rest("nobody asks any more" if idle else "another is asked about")
        if present is None or idle or present.is_final:
            return
        try:
            if present.jury is None:
                self._load(present)
            else:
                self._judge(present, present.jury)
        except Refused as error:
            self._end(present, "inconclusive", str(error))
        except RolloutError as error:
            self._again(present, str(error))

    def close(self) -> None:
        """Stop to load."""
        self._rest("the gate closes")

    def _begin(self, subject: Subject) -> _Judgement:
        attempt = min(self._attempts.pop(subject, 0) + 1, MAX_ATTEMPT)
        self._remember(subject, attempt)
        self._present = _Judgement(subject, attempt, _answer(subject, "inconclusive", "The load begins."))
        return self._present

    def _remember(self, subject: Subject, attempt: int) -> None:
        self._attempts[subject] = attempt
        if len(self._attempts) > MAX_REMEMBERED:
            self._attempts.pop(next(iter(self._attempts)))

    def _load(self, present: _Judgement) -> None:
        missing = self._absent()
        if missing is not None:
            # What is not there yet is no evidence against it; what goes away later is, for then its requests fail.
            self._say(present, "inconclusive", f"{missing} The load begins when it is there.")
            return
        present.beginnings += 1
        self._loaded = present
        for traffic in self._traffic.values():
            traffic.begin(self._plan.steps[0], ("canary", self._plan.beside))
        present.jury, present.since_s = Jury.of_step(self._plan, present.attempt), self._now_s()
        present.is_warm, present.has_passed, present.warmed = not self._plan.warm_up.requests, False, {}
        self._tell(f"{present.subject}: the load begins, attempt {present.attempt}")

    def _looks(self) -> list[tuple[Source, Look]]:
        found = ((source, self._traffic[source].look().get("canary")) for source in self._plan.sources)
        return [(source, look) for source, look in found if look is not None]

    def _judge(self, present: _Judgement, jury: Jury) -> None:
        looks = self._looks()
        if not present.is_warm:
            self._warm(present, looks)
            return
        for source, look in looks:
            jury.add(source, look)
        verdicts = jury.verdicts()
        status, seen = together(verdicts), samples(verdicts)
        step, rounds = self._plan.steps[0], 1 + self._plan.inconclusive.extend
        lasted_s = self._now_s() - present.since_s
        baked, late = lasted_s >= step.bake_s, lasted_s >= rounds * step.timeout_s
        present.has_passed |= status == "pass"
        # One that passed is watched on: Flagger gives it more weight meanwhile.
        spent = not present.has_passed and baked and seen >= rounds * step.samples
        sentence = _sentence(verdicts)
        if status == "pass" and not baked:
            status, sentence = "inconclusive", f"{sentence} The bake time of {step.bake_s:g} s is not over."
        if status == "fail":
            self._end(present, status, sentence, seen)
        elif late or spent:
            self._end(present, status, f"{sentence} This is final: the step has had its {'time' if late else 'requests'}.", seen)
        else:
            self._say(present, status, sentence, seen)

    def _warm(self, present: _Judgement, looks: list[tuple[Source, Look]]) -> None:
        """Leave out what a cold process answers; one that does not get warm is judged as it is."""
        warm_up = self._plan.warm_up
        arms: tuple[Arm, ...] = ("canary", self._plan.beside)
        for _, look in looks:
            for arm, requests in zip(arms, (look.batch.canary, look.batch.baseline), strict=True):
                present.warmed[arm] = present.warmed.get(arm, 0) + int(requests.ok.sum())
        answered = min(present.warmed.get(arm, 0) for arm in arms)
        now_s = self._now_s()
        if answered >= warm_up.requests or now_s - present.since_s >= warm_up.timeout_s:
            present.is_warm, present.since_s = True, now_s
        self._say(present, "inconclusive", f"Warming up: {answered} of {warm_up.requests} requests of each arm are answered.")

    def _again(self, present: _Judgement, why: str) -> None:
        """Begin the load again after the generator died, as another attempt: what was seen before has no end."""
        present.jury = None
        self._rest(why)
        if present.beginnings >= MAX_BEGINNINGS:
            self._end(present, "inconclusive", f"{why}. This is final: it was begun {MAX_BEGINNINGS} times.")
            return
        present.attempt = min(present.attempt + 1, MAX_ATTEMPT)
        with self._lock:
            self._attempts.pop(present.subject, None)
            self._remember(present.subject, present.attempt)
        self._say(present, "inconclusive", f"{why}. The load begins again.")

    def _end(self, present: _Judgement, status: Status, sentence: str, seen: int = 0) -> None:
        present.is_final = True
        self._say(present, status, sentence, seen)
        self._rest("decided")

    def _say(self, present: _Judgement, status: Status, sentence: str, seen: int = 0) -> None:
        if status != present.found["status"] or present.is_final:
            self._tell(f"{present.subject}: {status}: {sentence}")
        present.found = _answer(present.subject, status, sentence, seen)

    def _rest(self, why: str) -> None:
        if self._loaded is None:
            return
        self._tell(f"{self._loaded.subject}: the load ends: {why}")
        self._loaded = None
        for traffic in self._traffic.values():
            traffic.end()


def _answer(subject: Subject, status: Status, sentence: str, seen: int = 0) -> Mapping[str, Any]:
    return {"status": status, "sentence": sentence, "samples": seen, "release": subject.release, "step": subject.step}


def _sentence(verdicts: Mapping[str, Verdict]) -> str:
    return " ".join(each.sentence for each in verdicts.values())


def missing(addresses: Mapping[Arm, str]) -> str | None:
    """Return which of these services does not say that it is ready, and what came instead; None: all do."""
    for arm, address in addresses.items():
        url = f"{address.rstrip('/')}{READY_PATH}"
        try:
            _DIRECT.open(url, timeout=READY_LIMIT_S).close()
        except urllib.error.HTTPError as error:
            with error:
                return f"The {arm} is not ready: {url} answers {error.code}."
        except (OSError, ValueError) as error:
            return f"The {arm} is not ready: {url} does not answer ({getattr(error, 'reason', error)})."
    return None
