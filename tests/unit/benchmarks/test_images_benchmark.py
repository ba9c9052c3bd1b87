from __future__ import annotations

import numpy as np
import pytest

from benchmarks import images
from benchmarks.large_scenes import BUNDLE, enlarged
from benchmarks.photographs import encoded, photograph, poster
from benchmarks.record import Figure
from serving.clip.images import MOST_PIXELS, ImageReader
from serving.contract.bundle import ClipBundle, open_bundle


def test_every_arm_reads_every_file_in_every_round() -> None:
    calls: list[tuple[str, bytes]] = []
    arms = {name: lambda content, name=name: calls.append((name, content)) for name in ("ours", "pil")}
    samples = images.measure(arms, {"a": b"a", "b": b"b"}, 3, lambda what, share: None)
    assert {pair: len(values) for pair, values in samples.items()} == {(file, arm): 3 for file in "ab" for arm in arms}
    assert len(calls) == 2 * 3 * 4


def test_ratios_pair_the_rounds() -> None:
    figures = images.time_figures({("a", "ours"): [1.0, 10.0, 2.0], ("a", "pil"): [3.0, 30.0, 6.0]})
    assert Figure("a_pil_over_ours", 3.0, "x", 3) in figures
    assert Figure("a_ours_ms", 2.0, "ms", 3) in figures


def test_errors_are_in_levels() -> None:
    wanted = np.zeros((2, 2, 3), np.uint8)
    found = wanted.copy()
    found[0, 0, 0] = 6
    assert [figure.value for figure in images.error_figures("a", found, wanted)] == [0.5, 6.0, pytest.approx(100 / 12)]


def test_all_arms_see_the_same_picture() -> None:
    arms = images.make_arms()
    content = encoded(photograph(300, 260, noise=8), "PNG")
    wanted = images.with_pil(content)
    for arm in ("ours", "ours_whole", "ours_without_simd"):
        assert np.abs(np.asarray(arms[arm](content)).astype(int) - wanted).max() <= 1
    theirs = np.asarray(arms["transformers"](content))[0].transpose(1, 2, 0) * images.STD + images.MEAN
    assert np.array_equal(np.rint(255 * theirs), wanted)


def test_pictures_are_drawn_from_their_seed() -> None:
    for draw in (photograph, poster):
        assert np.array_equal(draw(60, 40, seed=3), draw(60, 40, seed=3))
        assert not np.array_equal(draw(60, 40, seed=3), draw(60, 40, seed=4))


def test_aims_are_judged_on_figures() -> None:
    names = {"photo_noisy_pil_over_ours": 2.0, "a_ours_whole_max_levels": 1.0, "b_ours_whole_max_levels": 2.0, "ours_cosine": 0.9999}
    aims = images.aims_of([Figure(name, value, "", 1) for name, value in names.items()])
    assert [aim.met for aim in aims] == [True, False, True]


def test_large_scenes_show_what_small_ones_do() -> None:
    scene = photograph(64, 64, noise=8)
    bundle = open_bundle(BUNDLE)
    assert isinstance(bundle, ClipBundle)
    reader = ImageReader(bundle.manifest.clip.image, max_bytes=2**26, max_pixels=MOST_PIXELS)
    plain, lined = (reader.read(enlarged(scene, lined=lined)).astype(int) for lined in (False, True))
    assert np.corrcoef(plain.ravel(), scene.ravel())[0, 1] > 0.99  # not 1: JPEG, and edges that resizing rings at
    assert lined.mean() < 0.9 * plain.mean(), "a part of it is black"
