"""The memory that runs use, beside the weights: one arena a process, with a bound."""

from __future__ import annotations

from functools import cache

import onnxruntime as ort

SHARE = "session.use_env_allocators"
KEEP_AS_ASKED = 1
"""`OrtArenaCfg`'s strategy that extends by what is asked for; the default doubles, and would stop at half of the bound."""

DEFAULT = -1


def use_bounded_arena(mib: int, options: ort.SessionOptions) -> None:
    """Let the session of `options` take its memory from the process' arena, which never grows beyond `mib` MiB.

    The arena is made at the first call; a later one with another bound has the first one's. A run that needs more fails, and the
    next one is not harmed.
    """
    _arena(mib)
    options.add_session_config_entry(SHARE, "1")


@cache
def _registered() -> set[int]:
    return set()


def _arena(mib: int) -> None:
    if _registered():
        return
    _registered().add(mib)
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(mib * 2**20, KEEP_AS_ASKED, DEFAULT, DEFAULT))
