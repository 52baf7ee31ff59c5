"""Protobuf: messages, bytes and dicts; required fields, imports, versions; nothing is kept from one to the next."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import uuid

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, strategies as st

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import FAILED, MISALIGNED, SourceError, compile_schema
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.schema_sources import compiled
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

ORDER = """
syntax = "proto2";
package shop.v1;
message Order {
    required string id = 1;
    optional int32 count = 2;
    repeated Line lines = 3;
    map<string, Line> by_name = 4;
    optional Kind kind = 5;
    optional bytes raw = 6;
    optional int64 big = 7;
    oneof where { string street = 8; string box = 9; }
    message Line { required int32 sku = 1; optional Line inner = 2; }
}
enum Kind { PLAIN = 0; GIFT = 1; }
message Other { optional string x = 1; }
"""
IMPORTING = """
syntax = "proto3";
package pk;
import "google/protobuf/timestamp.proto";
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
message Event {
    google.protobuf.Timestamp at = 1;
    google.protobuf.Any any = 2;
    google.protobuf.Struct more = 3;
    repeated int64 n = 4;
    double d = 5;
    string text = 6;
}
"""


@pytest.fixture(scope="module")
def order():
    return compile_schema(compiled("order", "protobuf", 1, ORDER))


@pytest.fixture(scope="module")
def event():
    return compile_schema(compiled("event", "protobuf", 2, IMPORTING))


VALID = [
    ({"id": "a"}, b"\n\x01a"),
    ({"id": "a", "count": 300}, b"\n\x01a\x10\xac\x02"),
    ({"id": "a", "count": "5"}, b"\n\x01a\x10\x05"),
    ({"id": "a", "count": None}, b"\n\x01a"),
    ({"id": "a", "lines": [{"sku": 1}, {"sku": 2, "inner": {"sku": 3}}]}, None),
    ({"id": "a", "byName": {"k": {"sku": 1}}}, None),
    ({"id": "a", "by_name": {"k": {"sku": 1}}}, None),
    ({"id": "a", "kind": "GIFT"}, b"\n\x01a(\x01"),
    ({"id": "a", "kind": 1}, b"\n\x01a(\x01"),
    ({"id": "a", "raw": base64.b64encode(b"\xff\x00").decode()}, b"\n\x01a2\x02\xff\x00"),
    ({"id": "a", "big": 2**63 - 1}, None),
    ({"id": "a", "street": "x"}, None),
]


@pytest.mark.parametrize(("message", "sent"), VALID)
def test_a_dict_becomes_the_messages_bytes(order, message, sent) -> None:
    before = repr(message)
    payload = order.encode(message)
    assert repr(message) == before
    assert type(payload) is bytes
    assert sent is None or payload == sent
    decoded = order.decode(payload)
    assert decoded.DESCRIPTOR.full_name == "shop.v1.Order"
    assert decoded.SerializeToString() == payload
    assert order.encode(order.decode(payload, as_dict=True)) == payload
    for same in (payload, bytearray(payload), memoryview(payload), decoded):
        assert order.encode(same) == payload


def test_bytes_that_are_no_utf8_text_are_fine(order) -> None:
    payload = b"\n\x01a\x10\xac\x02"
    with pytest.raises(UnicodeDecodeError):
        payload.decode()
    assert order.encode(bytearray(payload)) == payload


def test_unknown_fields_are_kept(order) -> None:
    payload = b"\n\x01a\x98\x06\x07"  # field 99
    assert order.encode(payload) == payload
    assert order.decode(payload).SerializeToString() == payload


def test_nothing_is_left_of_an_earlier_message(order) -> None:
    order.encode({"id": "a", "count": 5, "lines": [{"sku": 1}]})
    assert order.encode({"id": "b"}) == b"\n\x01b"
    first, second = order.decode(b"\n\x01a"), order.decode(b"\n\x01a")
    assert first is not second
    first.count = 7
    assert not second.HasField("count")


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        ({}, "id", "required fields are missing: id"),
        ({"count": 1}, "id", "required fields are missing: id"),
        ({"id": "a", "lines": [{"sku": 1}, {}]}, "lines[1].sku", "required fields are missing: lines[1].sku"),
        ({"id": "a", "by_name": {"k": {}}}, 'by_name["k"].sku', "required fields are missing"),
        ({"id": "a", "zz": 1}, "zz", 'Message type "shop.v1.Order" has no field named "zz"'),
        ({"id": "a", "lines": [{"sku": 1, "inner": {"zz": 1}}]}, "lines[0].inner.zz", "Failed to parse lines field"),
        ({"id": 1}, "id", "Failed to parse id field"),
        ({"id": "a", "count": "x"}, "count", "Failed to parse count field"),
        ({"id": "a", "count": 2**31}, "count", "Failed to parse count field: Value out of range"),
        ({"id": "a", "count": 1.5}, "count", "Failed to parse count field"),
        ({"id": "a", "count": True}, "count", "Failed to parse count field"),
        ({"id": "a", "kind": "NONE"}, "kind", "Failed to parse kind field: Invalid enum value"),
        ({"id": "a", "lines": {"sku": 1}}, "lines", "it is of type dict; the field is repeated"),
        ({"id": "a", "lines": [{"sku": "q"}]}, "lines.sku", "Failed to parse lines field"),
        ({"id": "a", "street": "x", "box": "y"}, "", "Message type"),
        ({"id": "\ud800"}, "id", "Failed to parse id field"),
        ({1: 2}, "1", "Failed to parse 1 field"),
        (b"nope", "", "Invalid message format, expecting protobuf"),
        (b"", "id", "required fields are missing: id"),
        (bytearray(b"\n\x05a"), "", "Invalid message format, expecting protobuf"),
        ("text", "", "Unsupported message type: str"),
        ([1], "", "Unsupported message type: list"),
        (5, "", "Unsupported message type: int"),
        (None, "", "Unsupported message type: NoneType"),
    ],
)
def test_what_does_not_match_is_refused_with_place_and_reason(order, message, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        order.encode(message)
    assert str(caught.value).startswith(FAILED)
    assert caught.value.path == path
    assert caught.value.reason.startswith(reason)


def test_a_message_object_without_its_required_fields_is_refused(order) -> None:
    empty = type(order.decode(b"\n\x01a"))()
    with pytest.raises(SchemaError, match="missing required fields: id"):
        order.encode(empty)


def test_a_payload_that_does_not_match_is_refused_with_the_consumers_words(order) -> None:
    for payload in (b"nope", b"", b"\n\x05a"):
        with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
            order.decode(payload)
    with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
        order.decode(b"", as_dict=True)


def test_imports_come_with_the_descriptor_and_the_own_file_first(event) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(event.info.descriptor)).file
    assert files[0].name == "event_2.proto"
    assert {file.name for file in files[1:]} == {
        f"google/protobuf/{name}.proto" for name in ("timestamp", "any", "struct")
    }
    message = {"at": "2026-01-02T03:04:05Z", "more": {"a": [1, None, "x"]}, "n": [1, 2]}
    decoded = event.decode(event.encode(message))
    assert decoded.at.ToJsonString() == "2026-01-02T03:04:05Z"
    assert event.decode(event.encode(message), as_dict=True) == {
        "at": "2026-01-02T03:04:05Z",
        "more": {"a": [1.0, None, "x"]},
        "n": ["1", "2"],
    }


def test_the_dict_of_an_any_stays_as_it_is(event) -> None:
    message = {"any": {"@type": "type.googleapis.com/google.protobuf.Timestamp", "value": "2026-01-02T03:04:05Z"}}
    inner = message["any"]
    keys = list(inner)
    assert event.encode(message)
    assert list(inner) == keys
    plain = {"any": {"@type": "type.googleapis.com/pk.Event", "text": "x"}}
    assert event.encode(plain)
    assert list(plain["any"]) == ["@type", "text"]


def test_a_set_without_googles_files_and_in_any_order_is_completed(event) -> None:
    whole = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(event.info.descriptor))
    own = descriptor_pb2.FileDescriptorSet(file=[whole.file[0]])  # as a Memphis broker makes it
    reverse = descriptor_pb2.FileDescriptorSet(file=list(whole.file)[::-1])
    for some in (own, reverse):
        text = base64.b64encode(some.SerializeToString()).decode()
        schema = compile_schema(SchemaInfo("e", "protobuf", 7, "", text, "Event"))
        assert schema.encode({"n": [1]}) == event.encode({"n": [1]})


def test_two_versions_of_one_message_do_not_meet() -> None:
    sources = [f'syntax = "proto3"; message M {{ {kind} a = 1; }}' for kind in ("string", "int32")]
    first, second = (compile_schema(compiled("m", "protobuf", n, source)) for n, source in enumerate(sources, 1))
    assert first.encode({"a": "x"}) == b"\n\x01x"
    assert second.encode({"a": 1}) == b"\x08\x01"
    assert first.decode(b"\n\x01x").a == "x"


@pytest.mark.parametrize("struct_name", ["", "Order", "shop.v1.Order"])
def test_the_message_by_simple_or_full_name(order, struct_name) -> None:
    info = SchemaInfo("o", "protobuf", 1, "", order.info.descriptor, struct_name)
    assert compile_schema(info).decode(b"\n\x01a").DESCRIPTOR.full_name == "shop.v1.Order"
    other = SchemaInfo("o", "protobuf", 1, "", order.info.descriptor, "Other")
    assert compile_schema(other).decode(b"").DESCRIPTOR.full_name == "shop.v1.Other"


@pytest.mark.parametrize(
    ("descriptor", "struct_name"),
    [("", "Order"), ("!", "Order"), ("AAAA", "Order"), (None, "Nobody"), (None, "shop.v1.Nobody")],
)
def test_a_descriptor_that_does_not_hold_the_message_is_refused(order, descriptor, struct_name) -> None:
    text = order.info.descriptor if descriptor is None else descriptor
    with pytest.raises(SourceError, match=r"^schema 'o' \(version 1, protobuf\) cannot be used: ."):
        compile_schema(SchemaInfo("o", "protobuf", 1, "", text, struct_name))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('syntax = "proto3";', "your Proto file is invalid: it contains no message"),
        ('syntax = "proto3"; enum E { A = 0; }', "your Proto file is invalid: it contains no message"),
        ('syntax = "proto3"; message M { strin a = 1; }', 'your Proto file is invalid: s_1.proto:1:32: "strin"'),
        ("nothing of the kind", "your Proto file is invalid: s_1.proto:1:1: "),
        ('syntax = "proto3"; import "other.proto"; message M {}', "your Proto file is invalid: other.proto: File not"),
        ('syntax = "proto3"; import "/etc/passwd"; message M {}', "your Proto file is invalid: /etc/passwd: File not"),
        ('syntax = "proto3"; import "../../etc/passwd"; message M {}', "your Proto file is invalid: "),
        (" \n", "your schema content is invalid"),
    ],
)
def test_a_source_that_protoc_refuses_is_an_answer(source, text) -> None:
    with pytest.raises(RequestError) as caught:
        compiled("s", "protobuf", 1, source)
    assert str(caught.value).startswith(text)
    assert "/tmp" not in str(caught.value)


@given(
    st.fixed_dictionaries(
        {
            "n": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
            "d": st.floats(allow_nan=False, allow_infinity=False),
            "text": st.text(st.characters(exclude_categories=["Cs"])),
        }
    )
)
def test_what_goes_in_comes_out(event, message) -> None:
    decoded = event.decode(event.encode(message))
    assert list(decoded.n) == message["n"]
    assert (decoded.d, decoded.text) == (message["d"], message["text"])
    assert json_format.ParseDict(event.decode(event.encode(message), as_dict=True), type(decoded)()) == decoded


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(taken_or_refused, order, data) -> None:
    taken_or_refused(order, data)


# ---- dicts: bytes, other types, the message's type ------------------------------------------------------------------

BLOBS = """
syntax = "proto3";
package pk;
import "google/protobuf/any.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Blob {
    bytes blob = 1;
    repeated bytes many = 2;
    map<string, bytes> named = 3;
    Blob inner = 4;
    repeated Blob inners = 5;
    map<int32, Blob> numbered = 6;
    oneof either { bytes left = 7; string right = 8; }
    google.protobuf.Any any = 9;
    google.protobuf.BytesValue wrapped = 10;
    int64 n = 11;
    double d = 12;
    bool yes = 13;
    google.protobuf.Struct more = 14;
    optional bytes maybe_raw = 15;
}
message Outer { message Inner { bytes raw = 1; } Inner one = 1; }
"""
RAW = b"abcd"  # also base64, of something else


@pytest.fixture(scope="module")
def blob():
    return compile_schema(compiled("blob", "protobuf", 1, BLOBS))


def any_of(name, **fields):
    return {"@type": f"type.googleapis.com/{name}", **fields}


PLACES = [
    ("blob", lambda raw: {"blob": raw}),
    ("many[1]", lambda raw: {"many": [b"", raw]}),
    ("many[0]", lambda raw: {"many": (raw,)}),
    ('named["k"]', lambda raw: {"named": {"k": raw}}),
    ("inner.inner.blob", lambda raw: {"inner": {"inner": {"blob": raw}}}),
    ("inners[1].many[0]", lambda raw: {"inners": [{}, {"many": [raw]}]}),
    ('numbered["5"].blob', lambda raw: {"numbered": {"5": {"blob": raw}}}),
    ("left", lambda raw: {"left": raw}),
    ("wrapped", lambda raw: {"wrapped": raw}),
    ("maybeRaw", lambda raw: {"maybeRaw": raw}),
    ("any.blob", lambda raw: {"any": any_of("pk.Blob", blob=raw)}),
    ("any.raw", lambda raw: {"any": any_of("pk.Outer.Inner", raw=raw)}),
    ("any.value", lambda raw: {"any": any_of("google.protobuf.BytesValue", value=raw)}),
    ("any.any.blob", lambda raw: {"any": any_of("pk.Blob", any=any_of("pk.Blob", blob=raw))}),
    ("any.value.blob", lambda raw: {"any": any_of("google.protobuf.Any", value=any_of("pk.Blob", blob=raw))}),
]


@pytest.mark.parametrize(("path", "message_with"), PLACES, ids=[path for path, _ in PLACES])
def test_bytes_are_the_value_wherever_the_field_is(blob, path, message_with) -> None:
    wanted = blob.encode(message_with(base64.b64encode(RAW).decode()))
    assert RAW in wanted
    for raw in (RAW, bytearray(RAW), memoryview(RAW), memoryview(b"d.c.b.a."[::-1])[1::2]):
        message = message_with(raw)
        before = repr(message)
        assert blob.encode(message) == wanted
        assert repr(message) == before, "the caller's objects stay as they are"
    for text in ("hi!!", "a", "=", "YQ=", "YQ===", "YR==", "Y Q", "\u00e9", "YWJj\n"):
        with pytest.raises(SchemaError, match="it is a str that is not base64") as caught:
            blob.encode(message_with(text))
        assert caught.value.path == path
    with pytest.raises(SchemaError, match="it is of type int; the field accepts bytes, bytearray, memoryview or b"):
        blob.encode(message_with(5))


@pytest.mark.parametrize("text", ["", "YQ", "YQ==", "-_-_", "+/+/", "YWI", "YWI="])
def test_base64_of_either_alphabet_with_or_without_padding(blob, text) -> None:
    padded = text.replace("-", "+").replace("_", "/").rstrip("=")
    wanted = base64.b64decode(padded + "=" * (-len(padded) % 4))
    assert blob.decode(blob.encode({"blob": text})).blob == wanted


@given(st.binary(max_size=50))
def test_any_bytes_come_out_as_they_went_in(blob, raw) -> None:
    assert blob.decode(blob.encode({"blob": raw, "many": [raw], "inner": {"blob": raw}})).inner.blob == raw


@pytest.mark.parametrize(
    ("message", "path", "said"),
    [
        ({"right": b"x"}, "right", "it is bytes; the field accepts a str: decode it"),
        ({"n": b"5"}, "n", "it is bytes; the field accepts a number"),
        ({"n": decimal.Decimal("1.5")}, "n", "it is of type Decimal, which has no form in JSON; send str(value)"),
        ({"n": np.float32(1.5)}, "n", "it is of type numpy.float32, which has no form in JSON"),
        ({"n": np.bool_(True)}, "n", "it is of type numpy.bool"),
        ({"d": np.bool_(True)}, "d", "it is of type numpy.bool"),
        ({"inners": [{"right": uuid.UUID(int=1)}]}, "inners[0].right", "it is of type UUID"),
        ({"more": {"a": [1, {2}]}}, "more.a[1]", "it is of type set"),
        ({"many": {RAW}}, "many", "it is of type set"),
        ({"inner": object()}, "inner", "it is of type object"),
    ],
)
def test_values_that_a_field_does_not_take_are_refused_and_not_bent(blob, message, path, said) -> None:
    with pytest.raises(SchemaError) as caught:
        blob.encode(message)
    assert (caught.value.path, caught.value.reason[: len(said)]) == (path, said)


def test_numbers_that_are_not_pythons_own_are_taken_as_what_they_are(blob) -> None:
    message = {"n": np.int64(5), "d": decimal.Decimal("1.5"), "more": {"a": np.float64(2.5)}}
    assert blob.encode(message) == blob.encode({"n": 5, "d": 1.5, "more": {"a": 2.5}})
    assert blob.encode({"d": np.float32(0.5)}) == blob.encode({"d": 0.5})


def test_the_users_default_stands_in_for_other_types(blob) -> None:
    def default(value):
        if isinstance(value, uuid.UUID):
            return value.bytes
        if isinstance(value, set):
            return sorted(value)
        raise TypeError("unknown")

    schema = compile_schema(blob.info, JsonWriter(default))
    one = uuid.UUID(int=1)
    assert schema.encode({"blob": one, "more": {"a": {2, 1}}}) == blob.encode(
        {"blob": one.bytes, "more": {"a": [1, 2]}}
    )
    with pytest.raises(SchemaError, match="json_default raised TypeError for a Decimal: unknown") as caught:
        schema.encode({"inner": {"n": decimal.Decimal(1)}})
    assert caught.value.path == "inner.n"


def test_an_extensions_bytes_are_the_value_too() -> None:
    source = 'syntax = "proto2"; package pk; message M { extensions 100 to 200; } '
    source += "extend M { optional bytes raw = 100; }"
    schema = compile_schema(compiled("m", "protobuf", 1, source))
    assert schema.encode({"[pk.raw]": RAW}) == b"\xa2\x06\x04abcd"
    with pytest.raises(SchemaError, match="not base64"):
        schema.encode({"[pk.raw]": "!"})


def test_what_has_no_form_as_a_dict_is_a_schema_error(blob) -> None:
    unknown, nan = blob.decode(b""), blob.decode(b"")
    unknown.any.type_url = "type.googleapis.com/no.Such"
    nan.more["a"] = float("nan")
    for message in (unknown, nan):
        with pytest.raises(SchemaError, match=f"^{MISALIGNED}it cannot be written as a dict: "):
            blob.decode(message.SerializeToString(), as_dict=True)


def test_a_message_of_another_type_is_refused_by_its_full_name(order, blob) -> None:
    other = order.decode(b"\n\x01a")
    with pytest.raises(SchemaError, match=r"it is a message of type shop\.v1\.Order; the schema's type is pk\.Blob"):
        blob.encode(other)
    with pytest.raises(SchemaError, match=r"it is a message of type google\.protobuf\.Timestamp"):
        blob.encode(Timestamp(seconds=5))
    twin = compile_schema(blob.info)
    assert blob.encode(twin.decode(b"\n\x01a")) == b"\n\x01a", "of the same type, made by another copy of the schema"


@pytest.mark.parametrize(
    ("given_as", "stored_as", "full"),
    [
        ("", "Blob", "pk.Blob"),
        ("Blob", "Blob", "pk.Blob"),
        ("Outer", "Outer", "pk.Outer"),
        ("pk.Outer", "Outer", "pk.Outer"),
        ("Outer.Inner", "Outer.Inner", "pk.Outer.Inner"),
        ("pk.Outer.Inner", "Outer.Inner", "pk.Outer.Inner"),
    ],
)
def test_the_message_that_counts_may_be_named(given_as, stored_as, full) -> None:
    info = compiled("s", "protobuf", 1, BLOBS, given_as)
    assert info.message_struct_name == stored_as
    assert compile_schema(info).decode(b"").DESCRIPTOR.full_name == full


@pytest.mark.parametrize(
    "name", ["Nobody", "pk", "Inner", "google.protobuf.Any", "NamedEntry", "pk.Blob.NamedEntry", "blob"]
)
def test_a_message_that_is_not_there_is_refused_with_those_that_are(name) -> None:
    with pytest.raises(RequestError, match=f"it contains no message '{name}'; it has Blob, Outer, Outer.Inner$"):
        compiled("s", "protobuf", 1, BLOBS, name)
    with pytest.raises(RequestError, match="only protobuf schemas have a message's name, and this one is a json"):
        compiled("s", "json", 1, "{}", name)


TIMES = """
syntax = "proto3";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
message Times {
    google.protobuf.Timestamp at = 1;
    google.protobuf.Duration took = 2;
    map<string, google.protobuf.Timestamp> by_name = 3;
    repeated google.protobuf.Duration all = 4;
    google.protobuf.Any any = 5;
    google.protobuf.Struct more = 6;
    repeated bytes parts = 7;
    repeated Times inner = 8;
}
"""
NEW_YEAR = dt.datetime(2026, 1, 1, 1, 0, 0, 5, tzinfo=dt.timezone(dt.timedelta(hours=1)))


@pytest.fixture(scope="module")
def times():
    return compile_schema(compiled("times", "protobuf", 1, TIMES))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"at": NEW_YEAR}, {"at": "2026-01-01T00:00:00.000005Z"}),
        ({"at": dt.datetime(1, 1, 2, tzinfo=dt.timezone.utc)}, {"at": "0001-01-02T00:00:00Z"}),
        ({"by_name": {"x": NEW_YEAR}}, {"by_name": {"x": "2026-01-01T00:00:00.000005Z"}}),
        ({"took": dt.timedelta(seconds=1.5)}, {"took": "1.5s"}),
        ({"took": dt.timedelta(microseconds=-1)}, {"took": "-0.000001s"}),
        ({"took": dt.timedelta(days=-1, seconds=1)}, {"took": "-86399s"}),
        ({"all": [dt.timedelta(0), "2s"]}, {"all": ["0s", "2s"]}),
        (
            {"any": {"@type": "x/google.protobuf.Timestamp", "value": NEW_YEAR}},
            {"any": {"@type": "x/google.protobuf.Timestamp", "value": "2026-01-01T00:00:00.000005Z"}},
        ),
    ],
)
def test_a_datetime_is_a_timestamp_and_a_timedelta_a_duration(times, given, sent) -> None:
    assert times.encode(given) == times.encode(sent)


@pytest.mark.parametrize(
    ("given", "path", "reason"),
    [
        ({"at": dt.datetime(2026, 1, 1)}, "at", "it is a datetime without a time zone; add one"),
        ({"more": {"a": [1, float("nan")]}}, "more.a[1]", "it is nan, which has no form in JSON"),
        ({"parts": b"abc"}, "parts", "it is of type bytes; the field is repeated, so it must be a list"),
        ({"parts": "YWJj"}, "parts", "it is of type str; the field is repeated, so it must be a list"),
        ({"inner": [{"inner": {"parts": [b"x"]}}]}, "inner[0].inner", "it is of type dict; the field is repeated"),
    ],
)
def test_a_value_that_the_field_has_no_place_for_is_refused_with_what_it_takes(times, given, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        times.encode(given)
    assert (caught.value.path, caught.value.reason[: len(reason)]) == (path, reason)
