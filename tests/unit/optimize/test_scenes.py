from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from optimize.data.scenes.captions import COLOURED, FRAMES, HELD_OUT, VALIDATION_PHRASINGS, caption, draw_claim, draw_contrast, label
from optimize.data.scenes.combinations import DEALT, USUAL, part_of_pair, part_of_relation, parts_of, shown_together
from optimize.data.scenes.dataset import CHUNK, draw_training_scenes
from optimize.data.scenes.outlines import faces_of, mask_of
from optimize.data.scenes.render import SIDE, render
from optimize.data.scenes.sampling import MIN_CONTRAST, PARTS, draw_any, draw_scene
from optimize.data.scenes.scene import ATTRIBUTES, UNSAID, UNSETTLED, Scene, Thing, encode, truth
from optimize.data.scenes.suites import colour_pairs, suites
from optimize.data.scenes.vocabulary import COLOURS, POSITIONS, RELATIONS, SUBJECTS, THINGS


def _drawn(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_scene(rng) for _ in range(count)]


def _true(claim: Scene, scene: Scene) -> bool:
    return bool(truth(encode([claim], UNSAID), encode([scene], UNSETTLED))[0, 0])


def test_one_seed_draws_one_picture_and_another_seed_another() -> None:
    scene = _drawn(1)[0]
    first = render(scene, 7)
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render(scene, 7))
    assert not np.array_equal(first, render(scene, 8))


def test_data_set_is_the_same_whatever_the_number_of_processes() -> None:
    count = CHUNK + 50
    alone, shared = draw_training_scenes(count, 3), draw_training_scenes(count, 3, processes=2)
    assert alone.fingerprint() == shared.fingerprint()
    assert alone.fingerprint() != draw_training_scenes(count, 4).fingerprint()


@pytest.mark.parametrize("subject", [subject.name for subject in SUBJECTS])
def test_every_subject_has_an_outline_of_its_own(subject: str) -> None:
    mask = mask_of(subject, faces_of(subject)[0])
    assert 0.05 < np.asarray(mask).mean() / 255 <= 1  # a missing glyph would be an empty box or nothing
    others = [other.name for other in SUBJECTS if other.name != subject]
    small = np.asarray(mask.resize((16, 16)), float)
    gaps = [np.abs(np.asarray(mask_of(other, faces_of(other)[0]).resize((16, 16)), float) - small).mean() for other in others]
    assert min(gaps) > 5


def test_every_thing_stands_out_from_the_ground() -> None:
    for scene in _drawn(200):
        for thing in (scene.first, scene.second):
            if thing is not None:
                gap = np.subtract(COLOURS[str(thing.colour)], COLOURS[str(scene.background)], dtype=float)
                assert np.linalg.norm(gap) >= MIN_CONTRAST


@pytest.mark.parametrize("position", POSITIONS)
def test_a_thing_lies_where_the_scene_says(position: str) -> None:
    scene = Scene(Thing("circle", "white", "plain", "small", 1, position), background="black")
    rows, columns = np.nonzero(np.mean([render(scene, seed) for seed in range(8)], axis=(0, 3)) > 60)
    row, column = position.split()
    thirds = {"top": 0, "middle": 1, "bottom": 2, "left": 0, "center": 1, "right": 2}
    assert int(rows.mean() / SIDE * 3) == thirds[row]
    assert int(columns.mean() / SIDE * 3) == thirds[column]


def test_training_scenes_hold_training_pairs_only() -> None:
    for scene in _drawn(300):
        assert set(parts_of(scene).values()) == {"train"}


def test_every_part_has_every_value_of_both_attributes_of_a_pair() -> None:
    things = [thing.name for thing in THINGS]
    for attribute in DEALT:
        values = [value for value in ATTRIBUTES[attribute] if USUAL.get(attribute) != value]
        for part in PARTS:
            pairs = [(thing, value) for thing in things for value in values if part_of_pair(thing, attribute, value) == part]
            assert {value for _, value in pairs} == set(values)
            if len(values) >= 6:
                assert {thing for thing, _ in pairs} == set(things)


def test_a_relation_and_its_parts_are_dealt_out_evenly() -> None:
    names = [thing.name for thing in THINGS]
    parts = [part_of_relation(one, relation, other) for one in names for other in names for relation in RELATIONS if one != other]
    assert 0.14 < parts.count("test") / len(parts) < 0.2


def test_a_caption_is_true_of_its_scene_and_its_contrast_is_seldom() -> None:
    rng = random.Random(1)
    scenes = _drawn(300)
    claims = [draw_claim(scene, rng) for scene in scenes]
    assert all(_true(claim, scene) for claim, scene in zip(claims, scenes, strict=True))
    contrasts = [draw_contrast(claim, rng) for claim in claims]
    assert sum(_true(claim, scene) for claim, scene in zip(contrasts, scenes, strict=True)) < 0.02 * len(scenes)


def test_no_contrast_calls_an_unseen_combination_wrong() -> None:
    rng = random.Random(2)
    for scene in _drawn(300):
        contrast = draw_contrast(draw_claim(scene, rng), rng)
        assert "test" not in parts_of(contrast).values()


def test_what_training_never_shows_together_is_told() -> None:
    def shown(claim: Scene, scene: Scene) -> bool:
        return bool(shown_together(encode([claim], UNSAID), encode([scene], UNSETTLED))[0, 0])

    (subject, unseen), *_ = colour_pairs("test")
    seen = next(colour for name, colour in colour_pairs("train") if name == subject)
    other = next(name for name, colour in colour_pairs("train") if colour == unseen)
    scene = Scene(Thing(other, unseen, count=1), background="white")
    assert not shown(Scene(Thing(subject, count=1)), scene)  # it would be that subject in a colour it never has
    assert shown(Scene(Thing(subject, seen, count=1)), scene)  # the claim brings its own colour
    assert shown(Scene(Thing(other, count=1)), scene)
    assert not shown(Scene(Thing(colour=unseen)), Scene(Thing(subject, seen, count=1), background="white"))


def test_training_shows_what_a_caption_says_of_its_own_scene() -> None:
    rng = random.Random(4)
    scenes = [scene for scene in _drawn(200) if scene.second is None]
    own = [shown_together(encode([draw_claim(scene, rng)], UNSAID), encode([scene], UNSETTLED))[0, 0] for scene in scenes]
    assert all(own)


TWO = Scene(
    Thing("star", "red", "plain", None, 1), Thing("moon", "blue", "plain", None, 1), relation="left", background="white"
)  # a red star to the left of a blue moon


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Scene(Thing("moon", count=1)), True),
        (Scene(Thing("moon", "red", count=1)), False),
        (Scene(Thing("moon", count=2)), False),
        (Scene(Thing("moon", size="large", count=1)), True),  # unsettled: it may be
        (Scene(Thing("moon"), Thing("star")), True),  # no relation said: either order
        (Scene(Thing("moon"), Thing("star"), "left"), False),
        (Scene(Thing("star"), Thing("moon"), "left"), True),
        (Scene(Thing("star"), Thing("moon"), "above"), False),
        (Scene(Thing("star", "blue"), Thing("moon", "red")), False),
        (Scene(Thing("star"), background="black"), False),
        (Scene(Thing(colour="blue")), True),
    ],
)
def test_a_claim_holds_as_english_has_it(claim: Scene, expected: bool) -> None:
    assert _true(claim, TWO) is expected


def test_the_converse_of_a_relation_says_the_same() -> None:
    said = {caption(replace(TWO, background=None), random.Random(seed)) for seed in range(300)}
    assert any(re.search(r"star .*\bleft of\b.* (moon|crescent)", text) for text in said)
    assert any(re.search(r"(moon|crescent) .*\bright of\b.* star", text) for text in said)
    assert not any(re.search(r"(moon|crescent) .*\bleft of\b.* star", text) for text in said)


def test_labels_are_plain_english() -> None:
    assert label(Scene(Thing("airplane", "orange", count=1))) == "an orange airplane"
    assert label(Scene(Thing("star", "red", "striped", "large", 3, "top left"))) == "three large striped red stars in the top left corner"
    assert label(TWO) == "a plain red star to the left of a plain blue moon on a white background"
    assert label(Scene(Thing("digit 7", "blue", count=1)), HELD_OUT[0]) == "can you see a blue digit 7 here ?"


def test_training_never_uses_a_phrasing_that_is_held_out() -> None:
    for phrasing in (*HELD_OUT, *VALIDATION_PHRASINGS):
        assert phrasing.frame == "{}" or phrasing.frame not in FRAMES
        assert phrasing.frame != "{}" or phrasing.coloured not in COLOURED
    rng = random.Random(0)
    said = " ".join(caption(draw_claim(scene, rng), rng) for scene in _drawn(500)).split()
    assert not {"painted", "whose", "rendering", "photographed"} & set(said)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_every_picture_of_a_suite_shows_a_pair_of_its_part(part: str) -> None:
    attribute_of = {
        "textures": "texture",
        "counts": "count",
        "positions": "position",
        "sizes": "size",
        "relations": "relation",
        "bindings": "relation",
    }
    for suite in suites(part, 2):  # type: ignore[arg-type]
        attribute = attribute_of.get(suite.name, "colour")
        assert all(parts_of(scene)[attribute] == part for scene in suite.scenes)


def test_suites_have_one_right_label_for_each_picture() -> None:
    for suite in suites("test", 1):
        texts = [label(claim) for claim in suite.labels]
        assert len(set(texts)) == len(texts)
        claims, scenes = encode(suite.labels, UNSAID), encode(suite.scenes, UNSETTLED)
        holds = truth(claims, scenes).T
        among = suite.options if suite.options is not None else np.tile(np.arange(len(texts)), (len(scenes), 1))
        true = np.take_along_axis(holds, among, axis=1)
        assert (true.sum(axis=1) == 1).all(), suite.name
        assert holds[np.arange(len(scenes)), suite.target].all()


def test_the_main_suite_has_thirty_labels_and_more() -> None:
    assert {suite.name: suite.choices for suite in suites("test", 1)}["colours"] >= 30


def test_drawing_without_regard_to_parts_meets_what_is_asked() -> None:
    scene = draw_any(random.Random(0), "one", ("star",), colour="red", size="large")
    assert (scene.first.subject, scene.first.colour, scene.first.size) == ("star", "red", "large")
