"""Architectures by name, with their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.contract.fields import FeatureSpec

if TYPE_CHECKING:  # torch takes seconds to import; recipes are read without it
    from optimize.models.base import RankingModel

Dropout = Annotated[float, Field(ge=0, lt=1)]
Hidden = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1, max_length=20)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DcnV2Settings(_Frozen):
    """Settings of `optimize.models.dcn_v2.DcnV2`."""

    architecture: Literal["dcn_v2"] = "dcn_v2"
    cross_layers: Annotated[int, Field(ge=1, le=20)] = 3
    cross_rank: Annotated[int, Field(ge=0)] = 0
    hidden: Hidden = (512, 256, 128)
    dropout: Dropout = 0.0
    embedding_dropout: Dropout = 0.0


class WideDeepSettings(_Frozen):
    """Settings of `optimize.models.wide_deep.WideDeep`."""

    architecture: Literal["wide_deep"] = "wide_deep"
    hidden: Hidden = (256, 128)
    dropout: Dropout = 0.0
    embedding_dropout: Dropout = 0.0


ModelSettings = Annotated[DcnV2Settings | WideDeepSettings, Field(discriminator="architecture")]


def build(settings: DcnV2Settings | WideDeepSettings, spec: FeatureSpec) -> RankingModel:
    """Make an untrained model."""
    arguments = settings.model_dump(exclude={"architecture"})
    if isinstance(settings, DcnV2Settings):
        from optimize.models.dcn_v2 import DcnV2

        return DcnV2(spec, **arguments)
    from optimize.models.wide_deep import WideDeep

    return WideDeep(spec, **arguments)
