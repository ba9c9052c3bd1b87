"""Prompt templates: a label becomes one text or several, and their embeddings one.

Letters in shapes, here and in the whole room: ``B`` images, ``K`` labels, ``M`` templates, ``T`` texts in one run, ``D`` the embedding.

References
----------
Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1.4: prompts and ensembles
over the embedding space. The 80 templates are those of its repository (https://github.com/openai/CLIP, MIT,
``notebooks/Prompt_Engineering_for_ImageNet.ipynb``), in its order; ``simple`` are the seven that it found to do nearly as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.clip.label_rules import refuse, shown, unprintable
from serving.contract.errors import InvalidRequest, Violation

PLACE = "{}"
"""Where the label goes; nothing else in a template or a label is interpreted."""

MAX_TEMPLATES = 100
MAX_TEMPLATE_LENGTH = 256

_IMAGENET80 = """
a bad photo of a {}.|a photo of many {}.|a sculpture of a {}.|a photo of the hard to see {}.|a low resolution photo of the {}.
a rendering of a {}.|graffiti of a {}.|a bad photo of the {}.|a cropped photo of the {}.|a tattoo of a {}.|the embroidered {}.
a photo of a hard to see {}.|a bright photo of a {}.|a photo of a clean {}.|a photo of a dirty {}.|a dark photo of the {}.
a drawing of a {}.|a photo of my {}.|the plastic {}.|a photo of the cool {}.|a close-up photo of a {}.
a black and white photo of the {}.|a painting of the {}.|a painting of a {}.|a pixelated photo of the {}.|a sculpture of the {}.
a bright photo of the {}.|a cropped photo of a {}.|a plastic {}.|a photo of the dirty {}.|a jpeg corrupted photo of a {}.
a blurry photo of the {}.|a photo of the {}.|a good photo of the {}.|a rendering of the {}.|a {} in a video game.|a photo of one {}.
a doodle of a {}.|a close-up photo of the {}.|a photo of a {}.|the origami {}.|the {} in a video game.|a sketch of a {}.
a doodle of the {}.|a origami {}.|a low resolution photo of a {}.|the toy {}.|a rendition of the {}.|a photo of the clean {}.
a photo of a large {}.|a rendition of a {}.|a photo of a nice {}.|a photo of a weird {}.|a blurry photo of a {}.|a cartoon {}.
art of a {}.|a sketch of the {}.|a embroidered {}.|a pixelated photo of a {}.|itap of the {}.|a jpeg corrupted photo of the {}.
a good photo of a {}.|a plushie {}.|a photo of the nice {}.|a photo of the small {}.|a photo of the weird {}.|the cartoon {}.
art of the {}.|a drawing of the {}.|a photo of the large {}.|a black and white photo of a {}.|the plushie {}.|a dark photo of a {}.
itap of a {}.|graffiti of the {}.|a toy {}.|itap of my {}.|a photo of a cool {}.|a photo of a small {}.|a tattoo of the {}.
"""

_SIMPLE = """
itap of a {}.|a bad photo of the {}.|a origami {}.|a photo of the large {}.|a {} in a video game.|art of the {}.|a photo of the small {}.
"""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(template for line in text.strip().splitlines() for template in line.split("|"))


NAMED: dict[str, tuple[str, ...]] = {
    "plain": (PLACE,),
    "single": ("a photo of a {}.",),
    "simple": _listed(_SIMPLE),
    "imagenet80": _listed(_IMAGENET80),
}
"""Template sets by name. ``plain`` takes labels as they are, for those that are whole captions."""


@dataclass(frozen=True)
class Templates:
    """A template set.

    Attributes
    ----------
    name
        None for a caller's own.
    texts
        Each with `PLACE` once.
    """

    name: str | None
    texts: tuple[str, ...]

    @property
    def shown(self) -> str | list[str]:
        """As a request gives them."""
        return self.name if self.name is not None else list(self.texts)

    @property
    def content(self) -> bytes:
        """What they are, not what they are called: sets of the same templates share their embeddings."""
        return json.dumps(self.texts).encode()

    def texts_of(self, label: str) -> list[str]:
        """The ``M`` texts of one label."""
        return [template.replace(PLACE, label) for template in self.texts]


def templates_of(given: str | Sequence[str] | None, default: str) -> Templates:
    """Resolve what a request says about templates.

    Parameters
    ----------
    given
        A name, templates of the caller's own, or None for the set called `default`.

    Raises
    ------
    InvalidRequest
        There is no set of this name, or a template breaks a rule.
    """
    if given is None:
        given = default
    if isinstance(given, str):
        if given not in NAMED:
            refuse("$.templates", f"no such set; there are {', '.join(NAMED)}, or give a list of templates with {PLACE} once each", given)
        return Templates(given, NAMED[given])
    if not 1 <= len(given) <= MAX_TEMPLATES:
        refuse("$.templates", f"expected 1 to {MAX_TEMPLATES} templates", f"a list of {len(given)}")
    broken = [found for index, template in enumerate(given) if (found := _broken(index, template)) is not None]
    if broken:
        raise InvalidRequest(f"{broken[0].path}: {broken[0].rule}", broken[:10])
    return Templates(None, tuple(given))


def _broken(index: int, template: str) -> Violation | None:
    rule = None
    if template.count(PLACE) != 1:
        rule = f"a template has {PLACE} once, where the label goes"
    elif len(template) > MAX_TEMPLATE_LENGTH:
        rule = f"expected at most {MAX_TEMPLATE_LENGTH} characters"
    elif unprintable(template):
        rule = "control characters are not taken"
    return None if rule is None else Violation(f"$.templates[{index}]", rule, shown(template))


def ensemble(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Join the embeddings of a label's texts: their mean, normalized again, each of them being normalized before.

    Parameters
    ----------
    embeddings
        ``(K, M, D) float32``, of length 1 each.

    Returns
    -------
    ndarray
        ``(K, D) float32``, of length 1 each.
    """
    return normalized(embeddings.mean(axis=1, dtype=np.float64))


def normalized(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Vectors ``(…, D)`` brought to length 1, as float32; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: npt.NDArray[np.float32] = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found
