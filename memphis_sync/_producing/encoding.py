"""Checks and writes a message without producing it: for those that wait for a commit, or in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Optional

from memphis_sync._options.arguments import check_name, check_place
from memphis_sync._options.checks import check_optional_callable
from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._protocol.names import internal_name
from memphis_sync._protocol.partitions import partition_for_key
from memphis_sync._protocol.payload import message_id, not_utf8, payload_of
from memphis_sync.headers import encode_user_headers
from memphis_sync.types import JsonDefault, Payload, SchemaInfo

if TYPE_CHECKING:
    from memphis_sync.client import Memphis


class EncodedMessage(NamedTuple):
    """
    A message as produce() sends it, from encode_message().

    Attributes:
        payload: The bytes.
        schema: What the message was checked by; None without a schema, and when none is known.
    """

    payload: bytes
    schema: Optional[SchemaInfo]


def encode_message(
    station_name: str,
    message: Payload,
    *,
    client: Optional[Memphis] = None,
    headers: Optional[Mapping[str, str]] = None,
    msg_id: Optional[str] = None,
    producer_partition_key: Optional[str] = None,
    producer_partition_number: int = -1,
    json_default: Optional[JsonDefault] = None,
) -> EncodedMessage:
    """
    Checks a message and its options as produce() does, and writes its payload. No IO: nothing is sent or asked for.

        encoded = memphis_sync.encode_message("orders", {"id": 7})
        print(encoded.payload)

    Args:
        station_name: One station.
        message, headers, msg_id, producer_partition_key, producer_partition_number: As of Producer.produce().
        client: Checks by the station's schema if this client knows it, because it has a producer or consumer of the
            station. Otherwise a dict or list is written as JSON.
        json_default: As of connect(), where *client* does not know the station.

    Returns:
        The payload, and the schema that it was checked by.

    Raises:
        ConfigurationError, HeaderError: A bad argument.
        SchemaError: The message does not match the station's schema. It is not reported to the broker.
    """
    name = check_name("station_name", "Station", station_name)
    encode_user_headers(headers)
    if msg_id is not None:
        message_id(msg_id)
    check_place("producer", producer_partition_key, producer_partition_number, (), name)
    if producer_partition_key is not None:
        partition_for_key(producer_partition_key, (1,))
    check_optional_callable("json_default", json_default)
    session = None if client is None else client._own_session()
    stations = None if session is None else session._stations
    codec = None if stations is None else stations.codec_of(internal_name(name))
    if codec is not None:
        return EncodedMessage(codec.encode(message), codec.info)
    writer = JsonWriter(json_default) if session is None or json_default is not None else session.json_writer
    try:
        return EncodedMessage(bytes(payload_of(message, writer)), None)
    except UnicodeEncodeError as exc:
        raise not_utf8(exc) from exc
