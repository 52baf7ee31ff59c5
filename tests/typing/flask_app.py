"""A user's Flask application and its tests, for type checkers: never run."""

# ruff: noqa: TC004  nothing here is used at run time

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import flask

from memphis_sync import Memphis, Message, PubAck, handler
from memphis_sync.contrib.flask import FlaskMemphis
from memphis_sync.memory import Sent, SentMessages, sent

if TYPE_CHECKING:
    from typing_extensions import assert_type

memphis = FlaskMemphis()


def create_app() -> flask.Flask:
    """The factory."""
    app = flask.Flask(__name__)
    memphis.init_app(app)
    FlaskMemphis(app, config_prefix="ARCHIVE")
    assert_type(memphis.client, Memphis)
    assert_type(memphis.client_for(app), Memphis)
    assert_type(memphis.client.produce("orders", "web", {"id": 7}), PubAck)
    return app


@handler("orders", group="billing")
def on_order(message: Message) -> None:
    """A handler, which stays a function."""


def test_checkout(memphis_sent: SentMessages) -> None:
    """A test of a user's."""
    assert_type(memphis_sent[0], Sent)
    assert_type(memphis_sent[1:], list[Sent])
    assert_type(sent[0].msg_id, Optional[str])
    assert_type(sent[0].headers, dict[str, str])
    for message in memphis_sent:
        assert_type(message.data, bytes)
    sent.clear()
