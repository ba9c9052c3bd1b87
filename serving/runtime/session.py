"""An ONNX Runtime session that knows its signature and holds callers to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serving.contract.errors import BundleError, ModelOutputError
from serving.contract.manifest import DType, Signature, TensorSpec, difference
from serving.runtime.arenas import use_bounded_arena
from serving.runtime.provider_names import Provider
from serving.runtime.providers import place, require_used

_DTYPES: dict[str, DType] = {"tensor(string)": "string", "tensor(int64)": "int64", "tensor(float)": "float32", "tensor(uint8)": "uint8"}
_NUMPY: dict[DType, npt.DTypeLike] = {
    "string": np.dtype(object),
    "int64": np.dtype(np.int64),
    "float32": np.dtype(np.float32),
    "uint8": np.dtype(np.uint8),
}

LOG_ERRORS_ONLY = 3


class GraphSession:
    """One graph, loaded and ready to run.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    threads
        Threads inside one run. Spinning is off: cores are shared with the HTTP server and other pods.
    provider
        What runs the graph; operators that it does not have run on the CPU.
    arena_mib
        Most memory that runs may use, as for `arenas.use_bounded_arena`; None leaves it to grow. It bounds the CPU's memory alone,
        and neither weights nor what the caller hands in.

    Raises
    ------
    BundleError
        ONNX Runtime cannot load the file, or the weights beside it. It maps them from their file, so that the workers of a machine
        share them, and refuses weights in another folder.
    SettingsError
        The provider is not available.
    """

    def __init__(self, path: Path, *, threads: int, provider: Provider = "cpu", arena_mib: int | None = None) -> None:
        self._session = open_session(path, threads=threads, provider=provider, arena_mib=arena_mib)
        self.path = path
        self.threads = threads
        self.signature = Signature(
            inputs=tuple(_tensor(path, node) for node in self._session.get_inputs()),
            outputs=tuple(_tensor(path, node) for node in self._session.get_outputs()),
        )
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._guards = tuple((tensor.name, _NUMPY[tensor.dtype], len(tensor.shape)) for tensor in self.signature.inputs)

    def require(self, expected: Signature) -> None:
        """Refuse a graph whose inputs and outputs are not those of `expected`.

        Raises
        ------
        BundleError
            Naming the first tensor that does not fit.
        """
        gap = difference(expected, self.signature)
        if gap:
            raise BundleError(f"graph {self.path.name!r} does not fit the manifest's signature: {gap}")

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run the graph once.

        Parameters
        ----------
        feeds
            Input name → array; dtypes and ranks as in the signature (strings as object arrays).

        Raises
        ------
        TypeError
            A feed's dtype or rank is not the signature's: a mistake of the calling room, not of a client.
        ModelOutputError
            The run itself failed, for want of memory in the arena or for another cause; later runs are not affected.
        """
        for name, dtype, rank in self._guards:
            feed = feeds[name]
            # NumPy's own dtypes are singletons in native byte order; only another one is worth a comparison
            if (feed.dtype is not dtype and feed.dtype != dtype) or feed.ndim != rank:
                raise TypeError(f"input {name!r} takes {dtype} with {rank} axes, got {feed.dtype} with {feed.ndim}")
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(self._outputs, feeds if type(feeds) is dict else dict(feeds))
        except Exception as error:  # pybind raises per-status types that share no base but Exception
            raise ModelOutputError(f"graph {self.path.name!r} failed: {error}") from error
        return outputs


def serving_options(threads: int) -> ort.SessionOptions:
    """Options of every session that serves, or that is measured as if it did."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(path: Path, *, threads: int, provider: Provider = "cpu", arena_mib: int | None = None) -> ort.InferenceSession:
    """Load a graph with the settings that serve, whatever types it takes and gives; parameters and errors as for `GraphSession`."""
    options = serving_options(threads)
    if arena_mib is not None:
        use_bounded_arena(arena_mib, options)
    providers = place(provider, options, threads=threads)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises several unrelated types for a bad file
        raise BundleError(f"graph {path} cannot be loaded by ONNX Runtime {ort.__version__}: {str(error).strip()}") from error
    require_used(provider, session)
    return session


def _tensor(path: Path, node: Any) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise BundleError(f"graph {path}: {node.name!r} has type {node.type}, only {', '.join(_DTYPES)} are served")
    return TensorSpec(name=node.name, dtype=dtype, shape=tuple(axis if axis is not None else "?" for axis in node.shape))
