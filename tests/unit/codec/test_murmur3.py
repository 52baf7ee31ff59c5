"""The hash that a key's partition comes from: published vectors, Memphis' own, and the reference for all the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from codec_bindings import each_binding
from hypothesis import given, settings, strategies as st
from reference.murmur3 import murmur3_x86_32 as reference

from memphis_sync.errors import ConfigurationError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "murmur3.json").read_text(encoding="utf-8"))["vectors"]


def data_of(vector: dict) -> bytes:
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["utf8"].encode()


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: f"{vector['seed']}-{vector.get('utf8', vector.get('hex'))}"
)
def test_reference_agrees_with_the_vectors(vector: dict) -> None:
    assert reference(data_of(vector), vector["seed"]) == vector["hash"]


@each_binding
def test_vectors(binding) -> None:
    assert len(VECTORS) >= 28
    for vector in VECTORS:
        assert binding.murmur3_x86_32(data_of(vector), vector["seed"]) == vector["hash"], vector


@each_binding
@settings(max_examples=150)
@given(data=st.binary(max_size=70), seed=st.integers(0, 2**32 - 1))
def test_any_bytes_any_seed(binding, data: bytes, seed: int) -> None:
    assert binding.murmur3_x86_32(data, seed) == reference(data, seed)


@each_binding
def test_every_length_and_alignment(binding) -> None:
    data = bytes(range(1, 65))
    for start in range(8):
        for end in range(start, len(data)):
            view = memoryview(data)[start:end]
            assert binding.murmur3_x86_32(view, seed=31) == reference(bytes(view), 31)


@each_binding
def test_any_contiguous_buffer_is_taken_and_the_seed_is_0_unless_given(binding) -> None:
    for data in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("i")):
        assert binding.murmur3_x86_32(data) == reference(b"abcd", 0)


@each_binding
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_names_value_and_bound(binding, seed: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^seed is {seed}; it must be between 0 and 4294967295$"):
        binding.murmur3_x86_32(b"", seed)


@each_binding
def test_what_is_no_buffer_is_a_type_error(binding) -> None:
    with pytest.raises(TypeError, match=r"^a bytes-like object is required, not 'str'$"):
        binding.murmur3_x86_32("key")
    with pytest.raises(TypeError, match=r"^seed must be an int, not str$"):
        binding.murmur3_x86_32(b"key", "31")
    with pytest.raises(BufferError, match="not C-contiguous"):
        binding.murmur3_x86_32(memoryview(b"abcd")[::2])
