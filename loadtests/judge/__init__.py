"""Pure statistics: samples and objectives in, a verdict out. Imports the standard library, numpy and scipy, nothing else."""

from loadtests.judge.arms import Arm, Batch
from loadtests.judge.errors import JudgeError
from loadtests.judge.judge import Judge
from loadtests.judge.objectives import (
    CANARY_OBJECTIVES,
    ErrorIncrease,
    ErrorLimit,
    GoodputLimit,
    NotSlower,
    Objective,
    Policy,
    QuantileLimit,
    QuantileRatio,
    RefusalIncrease,
    SameScores,
)
from loadtests.judge.tables import objectives_of
from loadtests.judge.verdict import VERDICT_NAME, VERDICT_SCHEMA_VERSION, Effect, Finding, Status, Verdict

__all__ = [
    "CANARY_OBJECTIVES",
    "VERDICT_NAME",
    "VERDICT_SCHEMA_VERSION",
    "Arm",
    "Batch",
    "Effect",
    "ErrorIncrease",
    "ErrorLimit",
    "Finding",
    "GoodputLimit",
    "Judge",
    "JudgeError",
    "NotSlower",
    "Objective",
    "Policy",
    "QuantileLimit",
    "QuantileRatio",
    "RefusalIncrease",
    "SameScores",
    "Status",
    "Verdict",
    "objectives_of",
]
