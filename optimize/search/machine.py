"""What the measurements were made on."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
"""CPU flags that decide which integer and half-precision kernels run."""


class Machine(BaseModel):
    """Where latencies were measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    flags: tuple[str, ...]
    cores: int
    threads: int


PACKAGES = ("onnxruntime", "onnx", "torch", "numpy")


def describe_machine(threads: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """CPU model, telling flags, cores, and the threads a run uses."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        flags = set()
    return Machine(cpu=model, flags=tuple(flag for flag in TELLING_FLAGS if flag in flags), cores=os.cpu_count() or 1, threads=threads)


@cache
def package_versions() -> dict[str, str]:
    """Versions of what builds and runs the graphs."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


@cache
def cpu_identity() -> str:
    """CPU model and the flags that decide which kernels run: a measurement on another one is another measurement."""
    described = describe_machine(1)
    return f"{described.cpu} {' '.join(described.flags)} {described.cores}"
