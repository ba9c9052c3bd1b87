"""One Arrow record batch of one row → the arrays that the graph takes, under the rules of the JSON requests.

The columns are taken as they lie in the batch: no structure a candidate and, strings apart, no Python object a value.

Letters: ``N`` candidates, ``V`` values of a list field, ``M`` values of a column's lists together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.contract.errors import Violation
from serving.contract.fields import MAX_FLOAT32, MISSING_INTEGER, REQUEST_INDEX, CategoricalField, FeatureSpec, NumericField, Part
from serving.features.columns import Feeds, sentinel_of
from serving.features.json_bodies import invalid, shown
from serving.features.requests import MAX_ID_LENGTH

Array = npt.NDArray[Any]
Place = Callable[[int], str]
"""Row → its path, for the violation."""

MAX_TOP_K = 2**31
"""As for JSON."""

MAX_PLANS = 4
"""Schemas remembered: one a kind of caller."""


@dataclass(frozen=True, slots=True)
class ArrowRequest:
    """A checked request.

    Attributes
    ----------
    feeds
        Field name → ``(1,)``, ``(1, V)``, ``(N,)`` or ``(N, V)`` of object (strings), int64 or float32; and ``request_index``.
    ids
        ``(N,)`` candidate ids as sent, object (strings) or int64.
    top_k
        Where the ranking is cut, None for all of it.
    candidates
        ``N``.
    """

    feeds: Feeds
    ids: Array
    top_k: int | None
    candidates: int


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a column of one field may hold; ``words`` are JSON's names of the types that it takes."""

    name: str
    words: tuple[str, ...]
    must_have: bool
    missing: Any
    dtype: Any
    max_length: int = 0
    max_values: int = 1

    @property
    def wanted(self) -> str:
        """As the JSON decoder names it."""
        word = "array" if self.max_values > 1 else "float" if self.words[0] == "float" else " | ".join(self.words)
        return f"`{word}`" if self.must_have else f"`{word} | null`"


@dataclass(frozen=True, slots=True)
class _Layout:
    """What an Arrow type is: ``word`` is JSON's name of it, ``dtype`` that of its numbers or offsets, ``inner`` of a list's values."""

    word: str
    dtype: Any = None
    inner: _Layout | None = None


@dataclass(frozen=True, slots=True)
class _Field:
    """Where one field is and how to read it; ``child`` is -1 when no column has it."""

    rule: _Rule
    child: int
    layout: _Layout
    place: Place


@dataclass(frozen=True, slots=True)
class _Part:
    """Where the fields of a part are; ``lacks`` names a required one that no column has."""

    column: int
    fields: tuple[_Field, ...]
    lacks: str | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One schema, resolved."""

    schema: Any
    user: _Part
    context: _Part
    candidates: _Part
    top_k: int


class ArrowEncoder:
    """Read record batches for one feature specification.

    Parameters
    ----------
    spec
        The fields of the model.
    max_candidates
        Most candidates that one request may have.
    """

    def __init__(self, spec: FeatureSpec, max_candidates: int) -> None:
        self._rules: dict[Part, tuple[_Rule, ...]] = {
            part: tuple(map(_rule, spec.of_part(part))) for part in ("user", "context", "candidate")
        }
        self._id_is_field = any(rule.name == "id" for rule in self._rules["candidate"])
        if not self._id_is_field:
            self._rules["candidate"] += (_Rule("id", ("int", "str"), True, None, object, MAX_ID_LENGTH),)
        self._max_candidates = max_candidates
        self._plans: tuple[_Plan, ...] = ()

    def encode(self, batch: pa.RecordBatch) -> ArrowRequest:
        """Check a batch of one row and make arrays of its columns.

        Parameters
        ----------
        batch
            Validated in full; columns ``user`` and ``context`` (structures), ``candidates`` (list of structures), ``top_k``.

        Raises
        ------
        InvalidRequest
            The batch breaks a rule; the violation has the path, the value and the rule.
        """
        plan = self._plan(batch)
        rows = self._candidates(batch.column(plan.candidates.column)[0])
        feeds = {field.rule.name: _read(field, rows) for field in _present(plan.candidates, rows)}
        ids = feeds["id"] if self._id_is_field else feeds.pop("id")
        for name, part in (("user", plan.user), ("context", plan.context)):
            feeds |= self._request_part(name, part, batch)
        feeds[REQUEST_INDEX] = np.zeros(len(rows), np.int64)
        return ArrowRequest(feeds, ids, _top_k(batch, plan.top_k), len(rows))

    def _candidates(self, cell: Any) -> Any:
        """The structures of the candidates; bounded before anything is made of them."""
        if not cell.is_valid:
            _refuse("$.candidates", "Expected `array`, got `null`", "null")
        rows = cell.values
        if len(rows) > self._max_candidates:
            _refuse("$.candidates", f"Expected `array` of length <= {self._max_candidates}", _shown_value(cell))
        if len(rows) == 0:
            _refuse("$.candidates", "Expected `array` of length >= 1", "[]")
        if rows.null_count:
            _refuse(f"$.candidates[{_first(~_valid(rows))}]", "Expected `object`, got `null`", "null")
        return rows

    def _request_part(self, name: str, part: _Part, batch: pa.RecordBatch) -> Feeds:
        """A part of one row; a null counts as left out, as Arrow has no other way to leave out a column of a schema."""
        column = batch.column(part.column) if part.column >= 0 else None
        if column is None or column.null_count:
            if any(field.rule.must_have for field in part.fields):
                _refuse("$", f"Object missing required field `{name}`", None)
            return {field.rule.name: _all_missing(field.rule, 1) for field in part.fields}
        if part.lacks is not None:
            _refuse(f"$.{name}", f"Object missing required field `{part.lacks}`", _shown_value(column[0]))
        return {field.rule.name: _read(field, column) for field in part.fields}

    def _plan(self, batch: pa.RecordBatch) -> _Plan:
        schema = batch.schema
        for plan in self._plans:
            if plan.schema.equals(schema):
                return plan
        plan = self._resolve(batch)
        self._plans = (plan, *self._plans[: MAX_PLANS - 1])  # replaced as a whole: callers may be threads
        return plan

    def _resolve(self, batch: pa.RecordBatch) -> _Plan:
        """Check names and types, which only the schema decides."""
        columns = _positions("$", batch.schema)
        for name in columns:
            if name not in ("user", "context", "candidates", "top_k"):
                _refuse(f"$.{name}", "no such field", _shown_value(batch.column(name)[0]))
        if "candidates" not in columns:
            _refuse("$", "Object missing required field `candidates`", None)
        top_k = columns.get("top_k", -1)
        if top_k >= 0 and _word(batch.schema.field(top_k).type) not in ("int", "null"):
            found = _word(batch.schema.field(top_k).type)
            _refuse("$.top_k", f"Expected `int | null`, got `{found}`", _shown_value(batch.column(top_k)[0]))
        return _Plan(
            batch.schema,
            self._resolve_object("user", columns.get("user", -1), batch),
            self._resolve_object("context", columns.get("context", -1), batch),
            self._resolve_candidates(columns["candidates"], batch),
            top_k,
        )

    def _resolve_object(self, name: Part, at: int, batch: pa.RecordBatch) -> _Part:
        found = "null" if at < 0 else _word(batch.schema.field(at).type)
        if found == "null":
            return _Part(-1, tuple(_Field(rule, -1, _NULLS, _of_part(name, rule.name)) for rule in self._rules[name]), None)
        if found != "object":
            _refuse(f"$.{name}", f"Expected `object`, got `{found}`", _shown_value(batch.column(at)[0]))
        return _resolve_part(self._rules[name], at, batch.column(at), lambda field: _of_part(name, field), f"$.{name}")

    def _resolve_candidates(self, at: int, batch: pa.RecordBatch) -> _Part:
        cell = batch.column(at)[0]
        if (found := _word(cell.type)) != "array":
            _refuse("$.candidates", f"Expected `array`, got `{found}`", _shown_value(cell))
        found = _word(cell.type.value_type)
        rows = self._candidates(cell)  # before any value of theirs is shown
        if found != "object":
            _refuse("$.candidates[0]", f"Expected `object`, got `{found}`", _shown_value(rows[0]))
        return _resolve_part(self._rules["candidate"], at, rows, _of_candidate, "$.candidates[0]")


def _rule(field: CategoricalField | NumericField) -> _Rule:
    if isinstance(field, NumericField):
        return _Rule(field.name, ("float", "int"), field.missing == "reject", math.nan, np.float32)
    must_have = field.missing == "reject" or field.name == "id"
    word, dtype = ("str", object) if field.dtype == "string" else ("int", np.int64)
    return _Rule(field.name, (word,), must_have, sentinel_of(field), dtype, field.max_length, field.max_values)


def _resolve_part(rules: tuple[_Rule, ...], at: int, rows: Any, place_of: Callable[[str], Place], whole: str) -> _Part:
    found = _positions(whole, rows.type)
    known = {rule.name: rule for rule in rules}
    for name, child in found.items():
        column = rows.field(child)
        row = _first_value(column)
        if name not in known:
            _refuse(place_of(name)(row), "no such field", _shown_value(column[row]))
        rule = known[name]
        _require_type(rule, column, row, place_of(name))
    lacks = next((rule.name for rule in rules if rule.must_have and rule.name not in found), None)
    fields = []
    for rule in rules:
        child = found.get(rule.name, -1)
        fields.append(_Field(rule, child, _layout(rows.type.field(child).type) if child >= 0 else _NULLS, place_of(rule.name)))
    return _Part(at, tuple(fields), lacks)


def _require_type(rule: _Rule, column: Any, row: int, place: Place) -> None:
    found = _word(column.type)
    if found == "null":
        return
    if rule.max_values == 1:
        if found not in rule.words:
            _refuse(place(row), f"Expected {rule.wanted}, got `{found}`", _shown_value(column[row]))
        return
    if found != "array":
        _refuse(place(row), f"Expected {rule.wanted}, got `{found}`", _shown_value(column[row]))
    inner = _word(column.type.value_type)
    if inner != "null" and inner not in rule.words:
        _refuse(f"{place(row)}[0]", f"Expected `{rule.words[0]}`, got `{inner}`", None)


def _positions(path: str, fields: Any) -> dict[str, int]:
    """Name → position of a schema's or structure's fields."""
    names = [field.name for field in fields]
    found = {name: at for at, name in enumerate(names)}
    if len(found) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        _refuse(f"{path}.{twice}", "the name is given to more than one column; names must be unique", None)
    return found


def _present(part: _Part, rows: Any) -> tuple[_Field, ...]:
    if part.lacks is not None:
        _refuse("$.candidates[0]", f"Object missing required field `{part.lacks}`", _shown_value(rows[0]))
    return part.fields


def _read(field: _Field, parent: Any) -> Array:
    """One field of the rows of `parent`, none of which is null."""
    rule = field.rule
    if field.child < 0:
        return _all_missing(rule, len(parent))
    column = parent.field(field.child)
    nulls = column.null_count
    if nulls:
        if rule.must_have:
            _refuse(field.place(_first(~_valid(column))), f"Expected {rule.wanted}, got `null`", "null")
        if nulls == len(column):
            return _all_missing(rule, nulls)
    return (_lists if rule.max_values > 1 else _values)(rule, field.layout, column, field.place)


def _values(rule: _Rule, layout: _Layout, column: Any, place: Place) -> Array:
    """Values ``(N,)`` of a column of the rule's type, its nulls replaced by the rule's "no value"."""
    if layout.word == "str":
        return _strings(rule, layout, column, place)
    raw = _view(column, layout.dtype, len(column))  # below a null lies anything
    return _numbers(raw, column, place) if rule.words[0] == "float" else _integers(raw, column, rule.missing, place)


def _strings(rule: _Rule, layout: _Layout, column: Any, place: Place) -> Array:
    if len(column) == 1:
        return _string(rule, column[0].as_py(), place)
    values: Array = column.to_numpy(zero_copy_only=False)
    offsets = _view(column, layout.dtype, len(column) + 1)
    if offsets[-1] - offsets[0] > rule.max_length:  # in bytes, of which a character has at least one
        lengths = offsets[1:] - offsets[:-1]
        if lengths.max() > rule.max_length:
            for row in np.flatnonzero(lengths > rule.max_length).tolist():
                if values[row] is not None and len(values[row]) > rule.max_length:
                    _refuse(place(row), f"Expected `str` of length <= {rule.max_length}", shown(values[row]))
    if column.null_count:
        values[~_valid(column)] = rule.missing
    return values


def _string(rule: _Rule, value: str | None, place: Place) -> Array:
    """A column of one value, as the user's are: without the detour over views of its buffers, which costs more than the value."""
    if value is not None and len(value) > rule.max_length:
        _refuse(place(0), f"Expected `str` of length <= {rule.max_length}", shown(value))
    return np.array([rule.missing if value is None else value], object)


def _integers(raw: Array, column: Any, missing: Any, place: Place) -> Array:
    wide = raw.dtype.itemsize == 8  # narrower ones have no value that is out of range
    unsigned = raw.dtype.kind == "u"
    broken = (raw > np.uint64(2**63 - 1) if unsigned else raw == MISSING_INTEGER) if wide else None
    values = raw.astype(np.int64)
    if column.null_count:
        valid = _valid(column)
        values[~valid] = missing
        broken = broken & valid if broken is not None else None
    if broken is not None and broken.any():
        limit = f"<= {2**63 - 1}" if unsigned else f">= {MISSING_INTEGER + 1}"
        _refuse(place(_first(broken)), f"Expected `int` {limit}", str(raw[_first(broken)]))
    return values


def _numbers(raw: Array, column: Any, place: Place) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN, which is refused below
        values = raw.astype(np.float64)  # as JSON's numbers are, so that both round alike
    broken = ~(np.abs(values) <= MAX_FLOAT32)
    if column.null_count:
        valid = _valid(column)
        values[~valid] = math.nan
        broken &= valid
    if broken.any():
        row = _first(broken)
        value = float(values[row])
        limit = f"<= {MAX_FLOAT32}" if value > 0 else f">= {-MAX_FLOAT32}"
        finite = "numbers must be finite; leave the field out when there is no value"
        _refuse(place(row), f"Expected `float` {limit}" if math.isfinite(value) else finite, str(value))
    return values.astype(np.float32)


def _lists(rule: _Rule, layout: _Layout, column: Any, place: Place) -> Array:
    """Lists as ``(N, V)``, the shorter ones filled up with the rule's "no value"."""
    offsets = _view(column, layout.dtype, len(column) + 1)
    stored = np.diff(offsets)
    valid = _valid(column)
    lengths = np.where(valid, stored, 0)  # a null may have values stored below it
    longest = int(lengths.max())
    if longest > rule.max_values:
        row = _first(lengths > rule.max_values)
        _refuse(place(row), f"Expected `array` of length <= {rule.max_values}", _shown_value(column[row]))
    if rule.must_have and not lengths.all():
        _refuse(place(_first(lengths == 0)), "Expected `array` of length >= 1", "[]")
    if longest == 0:
        return _all_missing(rule, len(column))
    assert layout.inner is not None
    if layout.inner.word == "null":  # values without bytes: there may be any number of them below a null
        _refuse(f"{place(_first(lengths > 0))}[0]", f"Expected `{rule.words[0]}`, got `null`", "null")
    inner = column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    starts = offsets[:-1] - offsets[0]
    if not valid.all():
        starts = np.cumsum(lengths) - lengths
        if stored[~valid].any():  # rare enough for the kernel to be loaded
            inner = inner.take(pa.array(np.flatnonzero(np.repeat(valid, stored))))
    if inner.null_count:
        _refuse(_inner_place(place, starts)(_first(~_valid(inner))), f"Expected `{rule.words[0]}`, got `null`", "null")
    flat = _values(rule, layout.inner, inner, _inner_place(place, starts))
    rows = np.full((len(column), longest), rule.missing, rule.dtype)
    rows[np.arange(longest) < lengths[:, None]] = flat
    return rows


def _inner_place(place: Place, starts: Array) -> Place:
    def of(position: int) -> str:
        row = int(np.searchsorted(starts, position, side="right")) - 1  # of equal starts, the last has the values
        return f"{place(row)}[{position - int(starts[row])}]"

    return of


def _all_missing(rule: _Rule, rows: int) -> Array:
    return np.full((rows, 1) if rule.max_values > 1 else rows, rule.missing, rule.dtype)


def _top_k(batch: pa.RecordBatch, at: int) -> int | None:
    value: int | None = batch.column(at)[0].as_py() if at >= 0 else None
    if value is not None and not 1 <= value <= MAX_TOP_K:
        _refuse("$.top_k", "Expected `int` >= 1" if value < 1 else f"Expected `int` <= {MAX_TOP_K}", str(value))
    return value


def _valid(array: Any) -> npt.NDArray[np.bool_]:
    """Which of ``(N,)`` values are not null. Arrow's own kernels would be loaded for this, at the first caller's cost."""
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.full(len(array), array.null_count == 0)
    first = array.offset
    bits = np.frombuffer(bitmap, np.uint8)[first >> 3 : (first + len(array) + 7) >> 3]
    valid = np.unpackbits(bits, bitorder="little")[first & 7 : (first & 7) + len(array)]
    return valid.view(np.bool_)


def _view(array: Any, dtype: Any, count: int) -> Array:
    """Numbers, or offsets into values, from the array's own offset on; the buffer may be longer, and no multiple of an element's size."""
    return np.frombuffer(array.buffers()[1], dtype, count, array.offset * dtype.itemsize)


def _first(rows: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(rows))


def _first_value(array: Any) -> int:
    """The first row that is not null, else row 0."""
    return _first(_valid(array)) if array.null_count else 0


_WORDS = (
    (pa.types.is_null, "null"),
    (pa.types.is_boolean, "bool"),
    (pa.types.is_integer, "int"),
    (pa.types.is_floating, "float"),
    (pa.types.is_string, "str"),
    (pa.types.is_large_string, "str"),
    (pa.types.is_list, "array"),
    (pa.types.is_large_list, "array"),
    (pa.types.is_struct, "object"),
)


def _word(kind: Any) -> str:
    """What JSON calls an Arrow type."""
    return next((word for holds, word in _WORDS if holds(kind)), str(kind))


def _layout(kind: Any) -> _Layout:
    word = _word(kind)
    if word in ("int", "float"):
        return _Layout(word, np.dtype(kind.to_pandas_dtype()))
    if word not in ("str", "array"):
        return _Layout(word)
    large = pa.types.is_large_string(kind) or pa.types.is_large_list(kind)
    return _Layout(word, np.dtype(np.int64 if large else np.int32), _layout(kind.value_type) if word == "array" else None)


_NULLS = _Layout("null")


def _shown_value(cell: Any) -> str:
    """A scalar for the violation; lists and structures are counted, a list of nulls takes no bytes and may be of any length."""
    word = _word(cell.type)
    if not cell.is_valid:
        return "null"
    if word == "array":
        return f"a list of {len(cell.values)}"
    if word == "object":
        return f"an object of {cell.type.num_fields}"
    value = cell.as_py()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else shown(value)


def _of_part(part: str, field: str) -> Place:
    return lambda row: f"$.{part}.{field}"


def _of_candidate(field: str) -> Place:
    return lambda row: f"$.candidates[{row}].{field}"


def _refuse(path: str, rule: str, value: str | None) -> NoReturn:
    raise invalid(Violation(path, rule, value))
