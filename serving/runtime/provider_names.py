"""What execution providers are called; apart, so that reading the settings loads no ONNX Runtime."""

from __future__ import annotations

from typing import Literal

Provider = Literal["cpu", "openvino", "cuda"]

NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "openvino": "OpenVINOExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What ONNX Runtime calls them."""
