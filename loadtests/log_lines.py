"""Samples as lines of a program's output, for a reader that gets nothing of the program but its log: a pod's, through the API server.

::

    pilotage-chunk SERIAL PART/PARTS TOTAL BASE64
    pilotage-end {"chunks": …}

A chunk is about a second of samples (the content of a ``samples.npz``, deflated), in as many lines as it takes. TOTAL counts the requests
of all chunks up to this one, so that a reader knows what a gap has cost. Other lines may stand in between.

Size, measured over 15 s of load on two arms: 32, 23 and 19 bytes a request at 100, 200 and 400 requests/s.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import zlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from loadtests.recorder import Recorder
from loadtests.samples import Samples, decode_samples, encode_samples
from loadtests.stream import StreamEnd, end_of, tells_nothing
from serving.contract.errors import SettingsError

Floats = NDArray[np.float64]

CHUNK, END = b"pilotage-chunk ", b"pilotage-end "

LINE_BYTES = 8000
"""Of base64 in a line. Container runtimes cut lines at 16 KiB."""

MAX_PARTS = 4096
MAX_CHUNK_BYTES = 256 * 2**20
"""Of one chunk, inflated: four million requests. More is no chunk of ours."""

LINE = re.compile(rb"pilotage-chunk (\d{1,9}) (\d{1,5})/(\d{1,5}) (\d{1,12}) ([A-Za-z0-9+/=]+)\s*")

SECONDS_BITS, MILLISECONDS_BITS = 20, 10
"""Times are rounded to 2⁻²⁰ s, and latencies to 2⁻¹⁰ ms, a microsecond each: random bits below that are half of what a chunk takes."""


class LogWriter:
    """Writes chunks to a file descriptor; whole lines, one after the other.

    Parameters
    ----------
    sink
        The program's output.
    """

    def __init__(self, sink: int = 1) -> None:
        self._sink, self._chunks, self._total = sink, 0, 0

    def add(self, samples: Samples) -> None:
        """Write a chunk; nothing where it would tell nothing."""
        if tells_nothing(samples):
            return
        self._chunks += 1
        self._total += len(samples)
        text = base64.b64encode(zlib.compress(encode_samples(_rounded(samples), compressed=False)))
        parts = [text[first : first + LINE_BYTES] for first in range(0, len(text), LINE_BYTES)]
        for number, part in enumerate(parts, 1):
            self._write(b"%s%d %d/%d %d %s\n" % (CHUNK, self._chunks, number, len(parts), self._total, part))

    def end(self, whole: Samples) -> None:
        """Say that this was all."""
        self._write(END + end_of(self._chunks, whole).model_dump_json().encode() + b"\n")

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._sink, line) :]


class LogReader:
    """Puts chunks together from lines: in order, each once, however often a line is read.

    Attributes
    ----------
    end
        What was said at the end; None while there may be more.
    lost_chunks, lost_requests
        What was written and is in no line that was read. The requests are counted as unanswered in the next chunk.
    """

    def __init__(self) -> None:
        self.end: StreamEnd | None = None
        self.lost_chunks = self.lost_requests = 0
        self._serial = self._total = 0
        self._open, self._parts = 0, dict[int, bytes]()

    def read(self, line: bytes) -> Samples | None:
        """Read a line; a chunk, where this line completes it. What is no line of ours is left out."""
        if line.startswith(END):
            return self._ended(line.removeprefix(END))
        found = LINE.fullmatch(line)
        if found is None:
            return None
        serial, number, parts, total = (int(each) for each in found.groups()[:4])
        if serial <= self._serial or not 1 <= number <= parts <= MAX_PARTS:
            return None
        if serial != self._open:
            self._open, self._parts = serial, {}
        self._parts[number] = found[5]
        if len(self._parts) < parts:
            return None
        samples = _decoded(b"".join(self._parts[each] for each in sorted(self._parts)))
        if samples is None:
            return None  # its serial will be missed by the next one
        return self._taken(serial, total, samples)

    def _taken(self, serial: int, total: int, samples: Samples) -> Samples:
        missing = self._miss(serial - 1, total - len(samples))
        self._serial, self._total, self._parts = serial, total, {}
        return replace(samples, unanswered=samples.unanswered + missing)

    def _miss(self, serial: int, total: int) -> int:
        """Count what must have been written up to a serial and was not read; requests."""
        missing = max(total - self._total, 0)
        self.lost_chunks += serial - self._serial
        self.lost_requests += missing
        return missing

    def _ended(self, text: bytes) -> Samples | None:
        if self.end is not None:
            return None
        try:
            self.end = StreamEnd.model_validate_json(text)
        except ValidationError:
            return None
        missing = self._miss(self.end.chunks, self.end.requests)
        self._serial, self._total = self.end.chunks, self.end.requests
        return replace(Recorder(()).samples(), unanswered=missing) if missing else None


def _rounded(samples: Samples) -> Samples:
    return replace(
        samples,
        intended_s=_round(samples.intended_s, SECONDS_BITS),
        started_s=_round(samples.started_s, SECONDS_BITS),
        latency_ms=_round(samples.latency_ms, MILLISECONDS_BITS),
    )


def _round(values: Floats, bits: int) -> Floats:
    return np.ldexp(np.rint(np.ldexp(values, bits)), -bits)


def _decoded(text: bytes) -> Samples | None:
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(base64.b64decode(text, validate=True), MAX_CHUNK_BYTES)
        return decode_samples(content) if inflate.eof else None
    except (binascii.Error, zlib.error, SettingsError):
        return None
