"""The feature specification: what it takes, what it fills in, and what it says when it refuses."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from serving.contract.errors import SpecificationError
from serving.contract.fields import FeatureSpec, load_spec, parse_spec

TOML = """
schema_version = 1
name = "shop"

[[fields]]
name = "user_id"
kind = "categorical"
part = "user"
buckets = 1000
dim = 8

[[fields]]
name = "price"
kind = "numeric"
part = "candidate"
min = 0.0
transform = "log1p"

[[fields]]
name = "id"
kind = "categorical"
part = "candidate"
dtype = "int64"
buckets = 100
dim = 4
seed = 7

[[crosses]]
name = "user_id_x_id"
fields = ["user_id", "id"]
buckets = 200
dim = 2
"""

ID = {"name": "id", "kind": "categorical", "part": "candidate", "buckets": 8, "dim": 2}
USER = {**ID, "name": "user_id", "part": "user"}
TAGS = {**ID, "name": "tags", "max_values": 3}
PRICE = {"name": "price", "kind": "numeric", "part": "candidate"}


def _document(*fields: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"name": "t", "fields": list(fields or (ID,)), **rest}


def _crossed(*members: str) -> dict[str, Any]:
    return _document(ID, USER, TAGS, PRICE, {**TAGS, "name": "seen"}, crosses=[{"name": "x", "fields": members, "buckets": 8, "dim": 2}])


def _refusal(document: object) -> str:
    with pytest.raises(SpecificationError) as caught:
        parse_spec(document, "shop.toml")
    assert "shop.toml" in str(caught.value)
    return str(caught.value)


def test_toml_goes_to_json_and_back_unchanged(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(TOML)
    spec = load_spec(tmp_path / "shop.toml")
    (tmp_path / "shop.json").write_text(spec.model_dump_json())
    assert load_spec(tmp_path / "shop.json") == spec
    assert [field.name for field in spec.fields] == ["user_id", "price", "id"]
    assert spec.is_per_candidate(spec.crosses[0])


def test_a_specification_of_every_kind_survives_json(tiny_spec: FeatureSpec) -> None:
    assert parse_spec(json.loads(tiny_spec.model_dump_json()), "json") == tiny_spec


def test_seeds_come_from_names_and_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(TOML)
    written = json.loads(load_spec(tmp_path / "shop.toml").model_dump_json())
    assert written["fields"][0]["seed"] == zlib.crc32(b"user_id")
    assert written["fields"][2]["seed"] == 7
    assert written["crosses"][0]["seed"] == zlib.crc32(b"user_id_x_id")


def test_a_seed_of_zero_is_kept() -> None:
    assert parse_spec(_document({**ID, "seed": 0}), "t").categorical[0].seed == 0


def test_defaults_are_promises() -> None:
    spec = parse_spec(_document(ID, PRICE, crosses=[{"name": "x", "fields": ["id", "u"], "buckets": 8, "dim": 2}]) | {
        "fields": [ID, PRICE, {**USER, "name": "u"}]
    }, "t")  # fmt: skip
    field, number, cross = spec.categorical[0], spec.numeric[0], spec.crosses[0]
    assert (field.dtype, field.missing, field.max_values, field.pooling, field.max_length, field.unseen) == (
        "string", "own", 1, "mean", 128, "mean",
    )  # fmt: skip
    assert (number.missing, number.missing_value, number.min, number.max, number.transform, number.center, number.scale) == (
        "value", 0.0, None, None, "identity", 0.0, 1.0,
    )  # fmt: skip
    assert (cross.missing, cross.pooling, cross.unseen) == ("zero", "mean", "mean")
    assert spec.schema_version == 1


@pytest.mark.parametrize(
    ("document", "place", "rule"),
    [
        (_document({**ID, "bukets": 9}), "fields[0] 'id' bukets", "no such setting (misspelt?)"),
        (_document(ID, crossings=[]), "crossings", "no such setting (misspelt?)"),
        (_document(ID, {**PRICE, "buckets": 9}), "fields[1] 'price' buckets", "no such setting (misspelt?)"),
        (_document({k: v for k, v in ID.items() if k != "dim"}), "fields[0] 'id' dim", "required"),
        (_document({**ID, "buckets": 1}), "fields[0] 'id' buckets", "greater than or equal to 2, got 1"),
        (_document({**ID, "buckets": 2**31}), "fields[0] 'id' buckets", "got 2147483648"),
        (_document({**ID, "dim": 0}), "fields[0] 'id' dim", "got 0"),
        (_document({**ID, "seed": -1}), "fields[0] 'id' seed", "got -1"),
        (_document({**ID, "seed": 2**32}), "fields[0] 'id' seed", "got 4294967296"),
        (_document({**TAGS, "max_values": 0}), "fields[0] 'tags' max_values", "got 0"),
        (_document({**ID, "max_length": 5000}), "fields[0] 'id' max_length", "got 5000"),
        (_document({**ID, "name": "top k"}), "fields[0] 'top k' name", "got 'top k'"),
        (_document({**ID, "kind": "kategorical"}), "fields[0] 'id'", "kategorical"),
        (_document({**ID, "part": "item"}), "fields[0] 'id' part", "got 'item'"),
        (_document({**ID, "dtype": "float"}), "fields[0] 'id' dtype", "got 'float'"),
        (_document({**PRICE, "min": 5, "max": 1}), "fields[0] 'price'", "min 5.0 must be below max 1.0"),
        (_document({**PRICE, "min": 5, "max": 5}), "fields[0] 'price'", "min 5.0 must be below max 5.0"),
        (_document({**PRICE, "scale": 0}), "fields[0] 'price'", "scale is 0.0"),
        (_document({**PRICE, "scale": -2}), "fields[0] 'price'", "scale is -2.0"),
        (_document({**PRICE, "scale": float("nan")}), "fields[0] 'price'", "scale is nan"),
        (_document({**PRICE, "missing_value": float("inf")}), "fields[0] 'price'", "missing_value is inf"),
        (_document({**PRICE, "transform": "log1p"}), "fields[0] 'price'", "'log1p' needs min greater than -1"),
        (_document({**PRICE, "transform": "log1p", "min": -1.0}), "fields[0] 'price'", "'log1p' needs min greater than -1"),
        (_document(ID, crosses=[{"name": "x", "fields": ["id"], "buckets": 8, "dim": 2}]), "crosses[0] 'x' fields", "at least 2"),
        (_document(schema_version=2), "schema_version", "should be 1, got 2"),
        (_document(name="No Capitals"), "name", "got 'No Capitals'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_is_refused_at_its_place(document: dict[str, Any], place: str, rule: str) -> None:
    lines = [line for line in _refusal(document).splitlines() if line.startswith(f"  {place}: ")]
    assert lines, _refusal(document)
    assert rule in lines[0]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_document(ID, ID), "the name 'id' is given 2 times"),
        (_document(ID, USER, crosses=[{"name": "id", "fields": ["id", "user_id"], "buckets": 8, "dim": 2}]), "'id' is given 2 times"),
        (_document(USER), "no field has part = 'candidate'"),
        (_document({**ID, "part": "user"}, TAGS), "field 'id' has part 'user'"),
        (_document({**ID, "max_values": 3}), "field 'id' must be categorical with a single value"),
        (_document({**PRICE, "name": "id"}), "field 'id' must be categorical with a single value"),
        (_document(ID, {**USER, "name": "request_index"}), "'request_index' is reserved"),
        (_crossed("id", "price"), "cross 'x' names 'price', which is a numeric field"),
        (_crossed("id", "colour"), "cross 'x' names 'colour', which is not a field"),
        (_crossed("id", "x"), "cross 'x' names 'x'"),
        (_crossed("id", "id"), "cross 'x' names a field twice"),
        (_crossed("tags", "id", "seen"), "cross 'x' has the lists tags, seen; at most one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fields_that_do_not_fit_together_are_refused_by_name(document: dict[str, Any], message: str) -> None:
    assert message in _refusal(document)


def test_every_mistake_is_reported_at_once() -> None:
    message = _refusal(_document({**ID, "bukets": 9, "dim": 0}, {**PRICE, "scale": 0}))
    assert "bukets" in message
    assert "dim" in message
    assert "'price'" in message


def test_a_wrong_field_is_the_only_thing_complained_about() -> None:
    assert len(_refusal(_document({**ID, "dim": 0})).splitlines()) == 2


@pytest.mark.parametrize("document", [[], "x", None, 5, {}, {"name": "t"}, {"name": "t", "fields": []}, {"name": "t", "fields": ["a"]}])
def test_what_is_no_specification_at_all_is_refused(document: object) -> None:
    _refusal(document)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.toml", b"name = "), ("a.json", b"{"), ("a.toml", b"name = '\xff'"), ("a.json", b"[" * 10), ("absent.toml", None)],
)
def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecificationError, match=name):
        load_spec(tmp_path / name)


def test_a_specification_cannot_be_changed_after_it_was_checked(tiny_spec: FeatureSpec) -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny_spec.fields[0].name = "other"  # type: ignore[misc]
