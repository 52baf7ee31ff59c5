"""Every error pickles, keeps its attributes and its place in the tree."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest

from memphis_sync import errors
from memphis_sync.types import PubAck

CLASSES = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.MemphisError)
]
FULL = [
    errors.DeadlineError("late", timeout_s=2.5),
    errors.ServerError("no", code=500, err_code=10052, description="broker's own"),
    errors.StationNotFoundError("gone", code=404, err_code=10059, description="stream not found"),
    errors.ProduceError("lost", outcome="unknown", message_id="id-1"),
    errors.AckTimeoutError("late", outcome="unknown", message_id="id-2", timeout_s=15.0),
    errors.RejectedError("no", message_id="id-3", code=400, err_code=10071, description="wrong last sequence"),
    errors.StationGoneError("gone", message_id="id-4", code=503),
    errors.SchemaError("Schema validation has failed: at /a: no", path="/a", reason="no"),
    errors.MultiStationError(
        "half", results={"a": PubAck("a", 1, 2, False, "a$1"), "b": errors.BufferFullError("full")}
    ),
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_pickles_and_copies(cls):
    for again in (pickle.loads(pickle.dumps(cls("what happened"))), copy.copy(cls("what happened"))):
        assert type(again) is cls
        assert str(again) == "what happened"
        assert again.retryable == cls.retryable


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_attributes_survive_a_pickle(error):
    again = pickle.loads(pickle.dumps(error))
    assert again.args == error.args
    assert {k: repr(v) for k, v in vars(again).items()} == {k: repr(v) for k, v in vars(error).items()}


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.UsageError, RuntimeError),
        (errors.DeadlineError, TimeoutError),
        (errors.AckTimeoutError, TimeoutError),
        (errors.BufferFullError, BufferError),
        (errors.PayloadTooLargeError, ValueError),
        (errors.HeaderError, ValueError),
    ],
)
def test_builtin_bases(cls, builtin):
    assert issubclass(cls, builtin)


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (errors.AuthenticationError, errors.MemphisConnectError),
        (errors.ClosedError, errors.UsageError),
        (errors.AckTimeoutError, errors.ProduceError),
        (errors.RejectedError, errors.ServerError),
        (errors.StationGoneError, errors.StationNotFoundError),
        (errors.SchemaError, errors.MemphisSchemaError),
        (errors.HeaderError, errors.MemphisHeaderError),
    ],
)
def test_tree(cls, base):
    assert issubclass(cls, base)


def test_only_what_may_pass_by_itself_is_retryable():
    retryable = {cls.__name__ for cls in CLASSES if cls.retryable}
    assert retryable == {
        "TransportError", "ConnectError", "ConnectionLostError", "DeadlineError", "BufferFullError", "AckTimeoutError",
    }  # fmt: skip


def test_undelivered_warning_is_shown_by_default():
    """Python hides ResourceWarning unless asked; a lost message must be seen."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.warn(errors.UndeliveredWarning("3 messages"), stacklevel=1)
    assert [str(item.message) for item in seen] == ["3 messages"]
