"""Schemas: creation, activation of a version, and attaching them to stations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from memphis_sync._options.arguments import check_name, check_retries
from memphis_sync._options.checks import check_int
from memphis_sync._options.schema_source import SchemaArguments, schema_source
from memphis_sync._protocol.requests import SchemaActivate, SchemaAttach, SchemaCreate, SchemaDetach

if TYPE_CHECKING:
    from memphis_sync.client import Memphis


def create(client: Memphis, given: SchemaArguments) -> None:
    """Creates a schema, or its next version."""
    name, kind, message, retries = given.schema_name, given.schema_type, given.message_name, given.timeout_retries
    request = SchemaCreate(name, kind, schema_content=schema_source(given), message_struct_name=message or "")
    client._requests.run(lambda: client._requests.create_schema(request, retries), retries, "create_schema()")


def activate(client: Memphis, schema_name: str, version: Optional[int], timeout_retries: int) -> int:
    """Makes a version the active one, None for the newest; returns its number."""
    name = check_name("schema_name", "Schema", schema_name)
    number = 0 if version is None else check_int("version", version, 1, 2**31 - 1)
    retries = check_retries("timeout_retries", timeout_retries)
    request, about = SchemaActivate(name, number), f"schema {name!r}"
    return client._requests.call("activate_schema_version()", request, retries=retries, about=about).version


def enforce(client: Memphis, name: str, station_name: str, timeout_retries: int) -> None:
    """Attaches a schema to a station."""
    schema = check_name("name", "Schema", name)
    station = check_name("station_name", "Station", station_name)
    retries = check_retries("timeout_retries", timeout_retries)
    about = f"schema {schema!r} on station {station!r}"
    client._requests.call("enforce_schema()", SchemaAttach(schema, station), retries=retries, about=about)


def detach(client: Memphis, station_name: str, timeout_retries: int) -> None:
    """Detaches a station's schema."""
    station = check_name("station_name", "Station", station_name)
    retries = check_retries("timeout_retries", timeout_retries)
    client._requests.call("detach_schema()", SchemaDetach(station), retries=retries, about=f"station {station!r}")
