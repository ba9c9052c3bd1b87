"""Prompt templates: the sets by name, a caller's own, and how their embeddings become one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from serving.clip.prompts import MAX_TEMPLATE_LENGTH, MAX_TEMPLATES, NAMED, ensemble, normalized, templates_of
from serving.contract.errors import InvalidRequest


def test_the_sets_have_the_sizes_of_their_sources_and_every_template_one_place() -> None:
    assert {name: len(texts) for name, texts in NAMED.items()} == {"plain": 1, "single": 1, "simple": 7, "imagenet80": 80}
    for texts in NAMED.values():
        assert len(set(texts)) == len(texts)
        assert all(text.count("{}") == 1 for text in texts)


def test_the_eighty_templates_are_those_of_the_paper_and_stay_so() -> None:
    texts = NAMED["imagenet80"]
    assert (texts[0], texts[39], texts[79]) == ("a bad photo of a {}.", "a photo of a {}.", "a tattoo of the {}.")
    assert set(NAMED["simple"]) < set(texts)
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "4f976686fb651bb5"


def test_a_label_with_braces_is_taken_as_it_is() -> None:
    assert templates_of(["a {} here", "{}"], "single").texts_of("{x} {0}") == ["a {x} {0} here", "{x} {0}"]


def test_none_means_the_default_and_a_name_its_set() -> None:
    assert templates_of(None, "simple") == templates_of("simple", "single")
    assert templates_of(["a photo of a {}."], "simple").content == templates_of("single", "simple").content


@pytest.mark.parametrize(
    ("given", "path", "rule"),
    [
        ("imagenet", "$.templates", "no such set"),
        ([], "$.templates", f"1 to {MAX_TEMPLATES}"),
        (["{}"] * (MAX_TEMPLATES + 1), "$.templates", f"1 to {MAX_TEMPLATES}"),
        (["{}", "a photo"], "$.templates[1]", "{} once"),
        (["{} and {}"], "$.templates[0]", "{} once"),
        (["{}" + "x" * MAX_TEMPLATE_LENGTH], "$.templates[0]", str(MAX_TEMPLATE_LENGTH)),
        (["a\n{}"], "$.templates[0]", "control characters"),
    ],
)
def test_templates_that_break_a_rule_are_named(given: str | list[str], path: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        templates_of(given, "single")
    violation = caught.value.violations[0]
    assert violation.path == path
    assert rule in violation.rule


def test_embeddings_are_averaged_and_normalized_again() -> None:
    drawn = normalized(np.random.default_rng(3).normal(size=(5, 7, 16)))
    joined = ensemble(drawn)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)
    mean = drawn.astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(joined, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(ensemble(drawn[:, :1]), drawn[:, 0], atol=1e-6)


def test_a_vector_of_length_zero_stays_finite() -> None:
    assert normalized(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]
