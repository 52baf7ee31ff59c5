"""Schemas made of their sources, as a broker would hand them out."""

from __future__ import annotations

import pytest

from memphis_sync._schema import FAILED
from memphis_sync.errors import SchemaError


@pytest.fixture
def schema_of():
    """``schema_of(kind, source)`` compiles a schema; ``.proto`` text goes through the broker's own protoc first."""
    from memphis_sync._schema import compile_schema
    from memphis_sync.broker.service.schema_sources import compiled

    def make(kind, source, version=1):
        return compile_schema(compiled("s", kind, version, source))

    return make


@pytest.fixture(scope="session")
def taken_or_refused():
    """``taken_or_refused(schema, data)``: bytes go out as they are, or there is a SchemaError, and nothing else."""

    def check(schema, data):
        try:
            taken = schema.encode(data)
        except SchemaError as exc:
            text = str(exc)
        else:
            assert taken == data
            return
        assert text.startswith(FAILED)

    return check
