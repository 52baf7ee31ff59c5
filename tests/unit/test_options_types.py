"""Arguments of types that are as good as Python's own: numpy's numbers, and paths that are objects."""

from __future__ import annotations

import enum
import fractions
import json

import numpy as np
import pytest

import memphis_sync
from memphis_sync._options.checks import check_int, check_retry, check_seconds
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import RetryPolicy


class Level(enum.IntEnum):
    FIVE = 5


class Whole:
    def __init__(self, number):
        self._number = number

    def __index__(self):
        return self._number


@pytest.mark.parametrize("number", [np.int64(5), np.uint8(5), np.int32(5), Whole(5), Level.FIVE])
def test_whatever_is_a_whole_number_is_one(number):
    checked = check_int("o", number, 1, 10)
    assert checked == 5
    assert json.dumps(checked) == "5"
    with pytest.raises(ConfigurationError, match=r"^o is 5; it must be a whole number from 6 to 10$"):
        check_int("o", number, 6, 10)


@pytest.mark.parametrize("value", [np.float64(5), np.bool_(True), np.array([1, 2]), np.array([]), 5.0, "5", None, True])
def test_what_is_not_a_whole_number_is_refused(value):
    with pytest.raises(ConfigurationError, match=r"^o is .*; it must be a whole number of at least 1$"):
        check_int("o", value, 1)


@pytest.mark.parametrize("value", [np.float32(1.5), np.float64(1.5), fractions.Fraction(3, 2)])
def test_seconds_of_other_number_types(value):
    checked = check_seconds("o", value)
    assert (checked, type(checked)) == (1.5, float)
    assert check_seconds("o", np.int64(2)) == 2.0
    for wrong in (np.float32("nan"), np.float64("inf"), np.int64(-1), 10**400):
        with pytest.raises(ConfigurationError, match=r"^o is .*; it must be a number of seconds"):
            check_seconds("o", wrong)


def test_a_retry_policy_of_other_number_types_becomes_one_of_ints():
    policy = check_retry("r", RetryPolicy(np.int64(3), np.int32(100)))
    assert policy == RetryPolicy(3, 100)
    assert type(policy.attempts) is int


def test_paths_may_be_path_objects(tmp_path):
    missing = tmp_path / "ca.pem"
    for option in ("ca_file", "cert_file", "key_file"):
        paths = {"cert_file": missing, "key_file": missing} if option != "ca_file" else {"ca_file": missing}
        with pytest.raises(ConfigurationError, match=r"_file is '.*ca\.pem'; there is no such file"):
            memphis_sync.connect("localhost", "u", password="p", **paths)
    with pytest.raises(
        ConfigurationError, match=r"^ca_file is of type bytes; it must be a str or an os.PathLike of one$"
    ):
        memphis_sync.connect("localhost", "u", password="p", ca_file=b"ca.pem")
