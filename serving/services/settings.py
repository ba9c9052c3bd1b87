"""Settings of the service: environment variables ``PILOTAGE_…``, read when a worker starts."""

from __future__ import annotations

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.contract.errors import SettingsError


class ServiceSettings(BaseSettings):
    """What an operator may set. No setting is called ``port`` or ``service_host``: Kubernetes injects
    ``PILOTAGE_PORT=tcp://…`` beside a Service named ``pilotage``.
    """  # noqa: D205

    model_config = SettingsConfigDict(env_prefix="PILOTAGE_", frozen=True, extra="ignore")

    bundle: str = "bundle"
    """Folder of the bundle, or ``bentoml:NAME[:VERSION]`` for one in BentoML's model store. The default is the
    folder that a Bento carries."""

    threads: int = Field(0, ge=0, le=256)
    """Threads inside one run of the graph; 0 takes the cores that the container may use."""

    max_candidates: int = Field(1000, ge=1, le=100_000)
    """Most candidates a request: at 500 a run takes milliseconds, and one caller must not hold a worker for long."""

    max_body_bytes: int = Field(4 * 2**20, ge=1024, le=2**30)
    """Largest body: 1,000 candidates with ten 100-character values each are some 1.3 MB."""


def load_settings() -> ServiceSettings:
    """Read the settings from the environment.

    Raises
    ------
    SettingsError
        Naming the variable, its value and its bounds.
    """
    try:
        return ServiceSettings()
    except ValidationError as error:
        lines = "; ".join(f"PILOTAGE_{'_'.join(map(str, e['loc'])).upper()}={e.get('input')!r}: {e['msg']}" for e in error.errors())
        raise SettingsError(lines) from error
