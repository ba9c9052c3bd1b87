"""The Open Inference Protocol's bodies: what Triton's client writes is read, what we write it reads, all else is refused."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton

from serving.contract.errors import InvalidRequest, MalformedRequest, RequestError
from serving.contract.fields import FeatureSpec, parse_spec
from serving.contract.manifest import ranking_signature
from serving.features.columns import ColumnEncoder, Encoded, stack
from serving.features.requests import RequestDecoder
from serving.features.tensors import TensorEncoder
from serving.protocol.answers import Model
from serving.protocol.open_inference import (
    InferReader,
    InferRequest,
    infer_answer,
    infer_error,
    model_config,
    model_metadata,
    require_outputs,
)

Tensor = npt.NDArray[Any]
MAX_VALUES, MAX_CANDIDATES = 64, 12
DATATYPES = {"O": "BYTES", "i": "INT64", "f": "FP32"}
FEEDS: dict[str, Tensor] = {
    "id": np.array(["a", "b 日本", ""], object),
    "price": np.array([1.5, -2, 0], np.float32),
    "tags": np.array([[1, 2], [3, -(2**63)], [-(2**63)] * 2]),
}


def _inputs(feeds: dict[str, Tensor], *, binary: bool) -> list[triton.InferInput]:
    inputs = []
    for name, values in feeds.items():
        tensor = triton.InferInput(name, list(values.shape), DATATYPES[values.dtype.kind])
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    return inputs


def _body(feeds: dict[str, Tensor], *, binary: bool, **options: Any) -> tuple[bytes, bytes | None]:
    body, length = triton.InferenceServerClient.generate_request_body(_inputs(feeds, binary=binary), **options)
    return body, None if length is None else str(length).encode()


def _read(document: Any, tail: bytes = b"") -> InferRequest:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return InferReader(MAX_VALUES).read(head + tail, str(len(head)).encode() if tail else None)


def _tensor(**changed: Any) -> dict[str, Any]:
    return {"name": "price", "shape": [2], "datatype": "FP32", "data": [1, 2.5]} | changed


def _assert_same(found: Any, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("binary", [True, False])
def test_what_tritons_client_writes_is_read(binary: bool) -> None:
    request = InferReader(MAX_VALUES).read(*_body(FEEDS, binary=binary, request_id="r-1"))
    _assert_same(request.inputs, FEEDS)
    assert (request.id, request.outputs, request.binary) == ("r-1", {}, True)


@pytest.mark.parametrize(("asked", "binary"), [(None, True), (True, True), (False, False)])
def test_what_is_answered_tritons_client_reads(asked: bool | None, binary: bool) -> None:
    outputs = None if asked is None else [triton.InferRequestedOutput("probability", binary_data=asked)]
    request = InferReader(MAX_VALUES).read(*_body(FEEDS, binary=True, outputs=outputs, request_id="r-1"))
    require_outputs(request, ["probability"])
    values = np.array([0.25, 1e-7, 0.9], np.float32)
    content, length = infer_answer(Model("ads", "3"), request, "probability", values)
    assert (length is not None) == binary
    result = triton.InferenceServerClient.parse_response_body(content, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("probability"), values)
    document = result.get_response()
    assert (document["model_name"], document["model_version"], document["id"]) == ("ads", "3", "r-1")


def test_json_without_any_wish_is_answered_in_json() -> None:
    request = _read({"inputs": [_tensor()]})
    content, length = infer_answer(Model("ads", "3"), request, "probability", np.array([0.5], np.float32))
    assert length is None
    output = {"name": "probability", "datatype": "FP32", "shape": [1], "data": [0.5]}
    assert json.loads(content) == {"model_name": "ads", "model_version": "3", "outputs": [output]}


def test_rows_may_be_nested_or_flat() -> None:
    nested = _read({"inputs": [_tensor(shape=[2, 2], datatype="INT64", data=[[1, 2], [3, 4]])]}).inputs["price"]
    flat = _read({"inputs": [_tensor(shape=[2, 2], datatype="INT64", data=[1, 2, 3, 4])]}).inputs["price"]
    assert nested.tolist() == flat.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(("datatype", "stored"), [("INT8", "<i1"), ("UINT32", "<u4"), ("FP16", "<f2"), ("FP64", "<f8")])
def test_other_widths_are_widened(datatype: str, stored: str) -> None:
    content = np.array([1, 2], stored).tobytes()
    tensor = _tensor(datatype=datatype, parameters={"binary_data_size": len(content)})
    del tensor["data"]
    for found in (_read({"inputs": [tensor]}, content), _read({"inputs": [_tensor(datatype=datatype, data=[1, 2])]})):
        assert found.inputs["price"].dtype == (np.float32 if "FP" in datatype else np.int64)
        assert found.inputs["price"].tolist() == [1, 2]


def _binary(size: Any, **changed: Any) -> dict[str, Any]:
    tensor = _tensor(parameters={"binary_data_size": size}) | changed
    return {"inputs": [{name: value for name, value in tensor.items() if name != "data" or name in changed}]}


@pytest.mark.parametrize(
    ("document", "tail", "error", "reason"),
    [
        (b"", b"", MalformedRequest, "valid JSON"),
        (b'{"id":' + b"[" * 5000, b"", RequestError, "Expected `str`|valid JSON"),
        ({}, b"", InvalidRequest, "missing required field `inputs`"),
        ({"inputs": []}, b"", InvalidRequest, "length >= 1"),
        ({"inputs": [_tensor(), _tensor()]}, b"", InvalidRequest, "names must be unique"),
        ({"inputs": [_tensor(shape=[3])]}, b"", MalformedRequest, "2 values, the shape .3. has 3"),
        ({"inputs": [_tensor(shape=[-1])]}, b"", InvalidRequest, ">= 0"),
        ({"inputs": [_tensor(shape=[1, 1, 1])]}, b"", InvalidRequest, "length <= 2"),
        ({"inputs": [_tensor(shape=[MAX_VALUES + 1])]}, b"", InvalidRequest, "at most 64 values"),
        ({"inputs": [_tensor(shape=[2**31, 2**31])]}, b"", InvalidRequest, "at most 64 values"),
        ({"inputs": [_tensor(data=[1] * 100)]}, b"", InvalidRequest, "length <= 64"),
        ({"inputs": [_tensor(shape=[2, 2], data=[[1, 2], [3]])]}, b"", MalformedRequest, "rows of another length"),
        ({"inputs": [_tensor(data=[1, True])]}, b"", InvalidRequest, r"\$.inputs.price.data\[1\]: Expected `float`, got `bool`"),
        ({"inputs": [_tensor(data=[1, None])]}, b"", InvalidRequest, "got `null`"),
        ({"inputs": [_tensor(data=[1, "2"])]}, b"", InvalidRequest, "got `str`"),
        ({"inputs": [_tensor(datatype="INT64", data=[1, 2**63])]}, b"", InvalidRequest, "<= 9223372036854775807"),
        ({"inputs": [_tensor(datatype="INT8", data=[1, 300])]}, b"", InvalidRequest, "out of the range of INT8"),
        ({"inputs": [_tensor(datatype="BYTES", data=[1, 2])]}, b"", InvalidRequest, "Expected `str`"),
        ({"inputs": [_tensor(datatype="BOOL")]}, b"", InvalidRequest, "Expected one of BYTES, INT8"),
        ({"inputs": [_tensor(datatype="UINT64")]}, b"", InvalidRequest, "Expected one of"),
        ({"inputs": [_tensor(parameters={"shared_memory_region": "x"})]}, b"", InvalidRequest, "shared memory"),
        ({"inputs": [{"name": "p", "shape": [1], "datatype": "FP32"}]}, b"", MalformedRequest, "neither data nor binary_data_size"),
        (_binary(8, data=[1, 2]), b"\0" * 8, MalformedRequest, "send one of them"),
        (_binary(7), b"\0" * 7, MalformedRequest, "take 8"),
        (_binary(9), b"\0" * 8, MalformedRequest, "8 bytes are left"),
        (_binary(True), b"\0" * 8, MalformedRequest, "binary_data_size is True"),
        (_binary(-1), b"\0" * 8, MalformedRequest, "binary_data_size is -1"),
        (_binary(8), b"\0" * 9, MalformedRequest, "1 bytes that belong to no tensor"),
        (_binary(8, datatype="BYTES"), struct.pack("<II", 0, 5), MalformedRequest, "exactly 2 strings"),
        (_binary(6, datatype="BYTES"), b"\0" * 6, MalformedRequest, "exactly 2 strings"),
        (_binary(9, datatype="BYTES"), b"\0" * 9, MalformedRequest, "exactly 2 strings"),
        (_binary(9, datatype="BYTES"), struct.pack("<Ic", 1, b"\xff") + b"\0" * 4, MalformedRequest, "not valid UTF-8"),
        ({"inputs": [_tensor()], "outputs": [{"name": "p", "parameters": {"classification": 2}}]}, b"", InvalidRequest, "classification"),
    ],
    ids=lambda value: None,
)
def test_what_does_not_fit_together_is_refused(document: Any, tail: bytes, error: type[RequestError], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        _read(document, tail)
    json.loads(infer_error(caught.value.message))


@pytest.mark.parametrize("header", [b"", b"-1", b"x", b"9999", b"1e1", "١".encode(), b"9" * 30])
def test_a_header_length_is_a_number_within_the_body(header: bytes) -> None:
    with pytest.raises(MalformedRequest, match="inference-header-content-length"):
        InferReader(MAX_VALUES).read(b'{"inputs": []}', header)


def test_an_output_that_is_not_there_is_named() -> None:
    request = _read({"inputs": [_tensor()], "outputs": [{"name": "logit"}]})
    with pytest.raises(InvalidRequest, match=r"\$\.outputs\.logit: no such output; there is probability"):
        require_outputs(request, ["probability"])


def test_metadata_and_configuration_name_every_tensor(tiny_spec: FeatureSpec) -> None:
    signature = ranking_signature(tiny_spec)
    metadata, config = (json.loads(write(Model("tiny", "1"), signature)) for write in (model_metadata, model_config))
    assert (metadata["name"], metadata["versions"], config["max_batch_size"]) == ("tiny", ["1"], 0)
    assert {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"]}["tags"] == ("INT64", [-1, -1])
    assert {t["name"]: (t["data_type"], t["dims"]) for t in config["input"]}["id"] == ("TYPE_STRING", [-1])
    assert metadata["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]


def test_no_bytes_are_more_than_a_refusal(tiny_spec: FeatureSpec) -> None:
    rng, encoder = random.Random(5), TensorEncoder(tiny_spec, MAX_CANDIDATES)
    feeds = FEEDS | {"device": np.array(["phone"], object)}
    bodies = [_body(feeds, binary=binary) for binary in (True, False)]
    refused = 0
    for _ in range(4000):
        body, header = rng.choice(bodies)
        mutated = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(mutated))
            mutated[at : at + rng.randrange(3)] = rng.choice([rng.randbytes(2), b"", b"9", b"[", b'"', b"\xff\xff\xff\xff"])
        try:
            encoder.encode(InferReader(MAX_VALUES).read(bytes(mutated), header).inputs)
        except RequestError as error:
            refused += 1
            json.loads(infer_error(error.message))
    assert refused > 1000


def _document(rng: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return rng.choice([value, value, None])

    return {
        "user": {"user_id": maybe("ann"), "segment": maybe(3), "history": maybe(["a", "b"][: rng.randrange(3)]), "age": maybe(41.5)},
        "context": {"device": rng.choice(["phone", "", "x" * 40])},
        "candidates": [
            {"id": f"c{i}", "price": maybe(i / 2), "tags": maybe(list(range(rng.randrange(5))))} for i in range(rng.randrange(1, 5))
        ],
    }


@pytest.mark.parametrize("requests", [1, 3])
def test_tensors_and_json_give_equal_arrays(tiny_spec: FeatureSpec, requests: int) -> None:
    decoder, columns, encoder = RequestDecoder(tiny_spec, 12), ColumnEncoder(tiny_spec), TensorEncoder(tiny_spec, 12)
    rng = random.Random(2)
    for _ in range(50):
        decoded = [decoder.decode(json.dumps(_document(rng)).encode()) for _ in range(requests)]
        parts = [Encoded(columns.encode([one]), 1, len(one.candidates)) for one in decoded]
        expected = stack(parts, columns.sentinels)
        for binary in (True, False):
            # JSON has no NaN, so there a number is left out where any of its values is missing
            sent = {name: values for name, values in expected.items() if binary or values.dtype.kind != "f" or np.isfinite(values).all()}
            encoded = encoder.encode(InferReader(MAX_VALUES).read(*_body(sent, binary=binary)).inputs)
            assert (encoded.requests, encoded.candidates) == (requests, len(expected["id"]))
            _assert_same({name: encoded.feeds[name] for name in sent}, sent)
            assert encoded.feeds.keys() == expected.keys()


def _valid() -> dict[str, Tensor]:
    return {"device": np.array(["phone"], object), "id": np.array(["a", "b"], object)}


@pytest.mark.parametrize(
    ("changed", "path", "rule"),
    [
        ({"usr": np.array(["x"], object)}, "$.inputs.usr", "no such input"),
        ({"id": None}, "$.inputs", "no tensor of the candidates"),
        ({"id": None, "price": np.zeros(2, np.float32)}, "$.inputs.id", "required"),
        ({"device": None}, "$.inputs.device", "required"),
        ({"id": np.array([1, 2])}, "$.inputs.id", "Expected BYTES, got INT64"),
        ({"price": np.array([1, 2])}, "$.inputs.price", "Expected FP32, got INT64"),
        ({"price": np.zeros((2, 1), np.float32)}, "$.inputs.price.shape", "Expected 1 axis"),
        ({"price": np.zeros(3, np.float32)}, "$.inputs.price.shape", "Expected 2 rows, as id has"),
        ({"price": np.array([1, np.inf], np.float32)}, "$.inputs.price[1]", "must be finite"),
        ({"id": np.array(["a"] * 13, object)}, "$.inputs.id.shape", "1 to 12 rows"),
        ({"id": np.array([], object)}, "$.inputs.id.shape", "1 to 12 rows"),
        ({"id": np.array(["a", "é" * 41], object)}, "$.inputs.id[1]", "length <= 40"),
        ({"id": np.array(["a", "\uffff"], object)}, "$.inputs.id[1]", "must not be missing"),
        ({"tags": np.zeros((2, 5), np.int64)}, "$.inputs.tags.shape", "at most 4 values"),
        ({"tags": np.zeros(2, np.int64)}, "$.inputs.tags.shape", "Expected 2 axes"),
        ({"device": np.array(["p", "q"], object)}, "$.inputs.request_index", "since there are 2 requests"),
        ({"request_index": np.array([0, 1])}, "$.inputs.request_index[1]", "Expected 0 to 0"),
        ({"request_index": np.array([0, -1])}, "$.inputs.request_index[1]", "Expected 0 to 0"),
        ({"request_index": np.zeros(2, np.float32)}, "$.inputs.request_index", "Expected INT64"),
    ],
    ids=lambda value: None,
)
def test_a_tensor_that_breaks_a_rule_is_named(tiny_spec: FeatureSpec, changed: dict[str, Any], path: str, rule: str) -> None:
    inputs = {name: values for name, values in (_valid() | changed).items() if values is not None}
    with pytest.raises(InvalidRequest) as caught:
        TensorEncoder(tiny_spec, MAX_CANDIDATES).encode(inputs)
    (violation,) = caught.value.violations
    assert violation.path == path
    assert rule in violation.rule


def test_a_required_list_or_number_must_have_a_value() -> None:
    fields = [
        {"name": "tags", "kind": "categorical", "part": "candidate", "buckets": 8, "dim": 1, "max_values": 3, "missing": "reject"},
        {"name": "price", "kind": "numeric", "part": "candidate", "missing": "reject"},
    ]
    encoder = TensorEncoder(parse_spec({"name": "t", "fields": fields}, "t"), 5)
    good = {"tags": np.array([["a", "\uffff"], ["b", "c"]], object), "price": np.zeros(2, np.float32)}
    assert encoder.encode(good).candidates == 2
    for name, values in (("tags", np.array([["a"], ["\uffff"]], object)), ("price", np.array([0, np.nan], np.float32))):
        with pytest.raises(InvalidRequest, match=rf"\$\.inputs\.{name}\[1\]"):
            encoder.encode(good | {name: values})
