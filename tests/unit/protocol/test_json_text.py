"""JSON as it is sent: what is refused, where in the value, and with which way out."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import types
import uuid

import numpy as np
import pytest
from hypothesis import given, strategies as st

from memphis_sync._protocol.json_text import PLAIN, JsonWriter, NotJsonError, read_json
from memphis_sync._protocol.payload import payload_of
from memphis_sync.errors import ConfigurationError

NAN, INF = float("nan"), float("inf")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Order:
    id: int


class Model:
    """What pydantic's models look like."""

    def model_dump(self, mode):
        return {"mode": mode}


class Form(dict):
    """What a web framework's form is: one value a key in items(), all of them underneath."""

    def items(self):
        return [(key, values[0]) for key, values in super().items()]


class Broken(dict):
    def items(self):
        raise KeyError("this type's own")


def cycle():
    value: dict[str, object] = {"a": [1]}
    value["a"].append(value)  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        ({"mean": NAN}, "/mean", "it is nan, which JSON does not have; put None there"),
        ({"a": [1, {"b/c": (2.5, -INF)}]}, "/a/1/b~1c/1", "it is -inf, which JSON does not have"),
        ({"x": np.float64("nan")}, "/x", "it is nan"),
        ({NAN: 1}, "/nan", "the key is nan, which JSON does not have; make it a text"),
        ({"a": {INF: 1}}, "/a/inf", "the key is inf"),
        ({"a": {(1, 2): 1}}, "/a/<tuple>", "the key is of type tuple; JSON has texts as keys: make it one"),
        ({np.int64(1): 1}, "/<int64>", "the key is of type int64"),
        ({"n": [np.int64(1)]}, "/n/0", "it is of type numpy.int64, which has no form in JSON; send value.tolist()"),
        ({"n": np.bool_(True)}, "/n", "it is of type numpy.bool"),
        ({"n": np.datetime64("2026-01-01")}, "/n", "in JSON; send value.astype(str).tolist(), or give"),
        ({"n": np.zeros(2, "m8[s]")}, "/n", "in JSON; send value.astype(str).tolist(), or give"),
        ({"n": np.array([1.5])}, "/n", "of type numpy.ndarray, which has no form in JSON; send value.tolist()"),
        ({"n": decimal.Decimal("1.5")}, "/n", "of type Decimal, which has no form in JSON; send str(value)"),
        (
            {"n": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)},
            "/n",
            "type datetime, which has no form in JSON; send val",
        ),
        ({"n": dt.date(2026, 1, 1)}, "/n", "send value.isoformat(), or give connect(json_default=...) a function"),
        ({"n": dt.timedelta(1)}, "/n", "send value.total_seconds()"),
        ({"n": uuid.UUID(int=5)}, "/n", "send str(value)"),
        ({"n": pathlib.PurePosixPath("x")}, "/n", "send str(value)"),
        ({"n": Colour.RED}, "/n", "send value.value"),
        ({"n": Order(1)}, "/n", "send dataclasses.asdict(value)"),
        ({"n": Model()}, "/n", 'send value.model_dump(mode="json")'),
        ({"n": {1, 2}}, "/n", "send list(value)"),
        ({"n": types.MappingProxyType({})}, "/n", "send dict(value)"),
        ([b"x"], "/0", "send base64.b64encode(value).decode()"),
        ([object()], "/0", "it is of type object, which has no form in JSON; send something that has one, or give"),
        ([Order], "/0", "it is of type type, which has no form in JSON; send something that has one"),
        ([1, 2, 1j], "/2", "it is of type complex"),
        (cycle(), "/a/1", "it holds itself"),
        ({"a": Broken(b=1)}, "/a", 'KeyError: "this type\'s own"'),
    ],
)
def test_what_has_no_form_in_json_is_refused_with_place_and_remedy(value, path, said) -> None:
    with pytest.raises(NotJsonError) as caught:
        PLAIN.write(value)
    assert caught.value.path == path
    assert said in caught.value.reason
    with pytest.raises(ConfigurationError, match=r"^message is a \w+ that cannot be written as JSON: at /"):
        payload_of(value)


def test_a_long_way_is_shown_in_part_and_a_deep_value_is_refused() -> None:
    value: object = NAN
    for _ in range(100):
        value = {"step": value}
    with pytest.raises(NotJsonError) as caught:
        PLAIN.write(value)
    assert len(caught.value.path) == 203
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotJsonError, match="nested too deep"):
        PLAIN.write(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Form(size=["L", "M"]), '{"size": "L"}'),
        (collections.OrderedDict(b=1, a=2), '{"b": 1, "a": 2}'),
        (
            {1: (Level.LOW, True, None), 2.5: np.float64(1.5), None: np.str_("x")},
            '{"1": [1, true, null], "2.5": 1.5, "null": "x"}',
        ),
        ([1e308, -0.0, "\u00e9\ud800"], '[1e+308, -0.0, "\\u00e9\\ud800"]'),
    ],
)
def test_what_json_writes_is_written(value, text) -> None:
    assert PLAIN.write(value) == text == json.dumps(value)


def test_a_default_stands_in_for_what_json_lacks() -> None:
    def default(value):
        if isinstance(value, Order):
            return {"id": value.id, "at": dt.date(2026, 1, 2)}
        if isinstance(value, dt.date):
            return value.isoformat()
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"no idea of {type(value).__name__}")

    writer = JsonWriter(default)
    assert writer.write([Order(1), np.int64(5)]) == '[{"id": 1, "at": "2026-01-02"}, 5]'
    for value, path, said in (
        ({"a": [Order(1), {1}]}, "/a/1", "json_default raised TypeError for a set: no idea of set"),
        ({"a": Order({2})}, "/a/id", "json_default raised TypeError for a set"),
        ({"a": np.float32("inf")}, "/a", "it is inf, which JSON does not have"),
    ):
        with pytest.raises(NotJsonError) as caught:
            writer.write(value)
        assert (caught.value.path, caught.value.reason[: len(said)]) == (path, said)
    for function in (lambda value: value, lambda value: [value], lambda _: 1 / 0):
        with pytest.raises(NotJsonError):
            JsonWriter(function).write({"a": {1}})


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "nan", "{", "", "[" * 100_000, "\ufeff{}", "1 2"]
)
def test_a_text_that_is_not_json_is_refused(text) -> None:
    with pytest.raises(NotJsonError):
        read_json(text)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        (Order(1), "; send dataclasses.asdict(message) instead"),
        (Model(), '; send message.model_dump(mode="json") instead'),
        (np.zeros(3), "; send message.tolist() instead"),
        ({1, 2}, "; send list(message) instead"),
        (5, ""),
        (None, ""),
    ],
)
def test_a_message_of_another_type_is_refused_with_what_may_stand_for_it(message, hint) -> None:
    with pytest.raises(ConfigurationError) as caught:
        payload_of(message)
    assert str(caught.value).endswith(f"a protobuf message or a GraphQL document{hint}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=2),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.floats(), inner, max_size=3)
        ),
    )
)
def test_what_is_written_is_read_as_the_same_and_the_rest_is_refused_with_its_place(value) -> None:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        with pytest.raises(NotJsonError) as caught:
            PLAIN.write(value)
        assert caught.value.path or not isinstance(value, (list, dict))
    else:
        assert PLAIN.write(value) == text
        assert json.dumps(read_json(text)) == text


class Frame:
    """What pandas' frames look like."""

    def to_dict(self) -> dict[str, int]:
        return {"a": 1}


def test_a_frame_has_its_own_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"; send message\.to_dict\(\) instead$"):
        payload_of(Frame())


def test_a_default_that_fails_once_only_is_an_error_without_a_place() -> None:
    """Looked for a second time, nothing is wrong any more."""
    answers = iter([RuntimeError("not now")])

    def default(_: object) -> str:
        for error in answers:
            raise error
        return "later"

    with pytest.raises(NotJsonError, match=r"^RuntimeError: not now"):
        JsonWriter(default).write({"a": object()})
