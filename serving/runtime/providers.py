"""ONNX Runtime's execution providers: chosen by configuration, refused when they are not there, never replaced in silence."""

from __future__ import annotations

from functools import cache
from typing import Any, assert_never

import onnxruntime as ort

from serving.contract.errors import SettingsError
from serving.runtime.provider_names import NAMES, Provider


def place(provider: Provider, options: ort.SessionOptions, *, threads: int) -> list[str] | None:
    """Prepare `options` for `provider`. What a provider does not run stays on the CPU, as always in ONNX Runtime.

    Returns
    -------
    list or None
        For the ``providers`` of the session; None where devices were added to `options` instead.

    Raises
    ------
    SettingsError
        The provider is not installed, or has no device on this machine.
    """
    match provider:
        case "cpu":
            return [NAMES["cpu"]]
        case "cuda":
            if NAMES["cuda"] not in ort.get_available_providers():
                raise _unavailable("cuda", "install onnxruntime-gpu in place of onnxruntime, with the CUDA libraries that it asks for")
            return [NAMES["cuda"], NAMES["cpu"]]
        case "openvino":
            options.add_provider_for_devices(_openvino_devices(), {"num_of_threads": str(threads)})
            return None
        case _:
            assert_never(provider)


def require_used(provider: Provider, session: ort.InferenceSession) -> None:
    """Check that the session that was made has the provider that was asked for.

    Raises
    ------
    SettingsError
        ONNX Runtime fell back to another one: the libraries of the provider could not be loaded, or there is no device.
    """
    used = session.get_providers()
    if NAMES[provider] not in used:
        raise SettingsError(
            f"PILOTAGE_PROVIDER={provider}: ONNX Runtime {ort.__version__} fell back to {', '.join(used)}, so {NAMES[provider]} cannot "
            "run here; check its libraries and its device with onnxruntime alone, or set PILOTAGE_PROVIDER=cpu"
        )


@cache
def _openvino_devices() -> list[Any]:
    """The CPU as OpenVINO sees it; the plugin is registered once a process, a second time is an error."""
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as error:
        raise _unavailable("openvino", "install onnxruntime-ep-openvino") from error
    name: str = plugin.get_ep_name()
    try:
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # pybind raises per-status types that share no base but Exception
        raise _unavailable("openvino", f"its plugin cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name and device.device.type == ort.OrtHardwareDeviceType.CPU]
    if not devices:
        seen = ", ".join(sorted({f"{device.device.type.name} of {device.device.vendor}" for device in ort.get_ep_devices()}))
        raise _unavailable("openvino", f"its plugin is installed and offers no CPU on this machine ({seen}); it runs on Intel's")
    return devices[:1]


def _unavailable(provider: Provider, remedy: str) -> SettingsError:
    available = [name for name in ("cpu", "cuda") if NAMES[name] in ort.get_available_providers()]
    return SettingsError(f"PILOTAGE_PROVIDER={provider} is not available (there is {', '.join(available)}): {remedy}")
