"""A shop: an application factory, a view that produces, a handler that needs an application context."""

from __future__ import annotations

import os
from pathlib import Path

import flask

import memphis_sync
from memphis_sync.contrib.flask import FlaskMemphis

STATION = os.environ.get("TEST_STATION", "orders")
memphis = FlaskMemphis()


def create_app() -> flask.Flask:
    """One that takes its settings from the environment."""
    app = flask.Flask("shop")
    app.config.from_prefixed_env()
    memphis.init_app(app)

    @app.post("/orders/<int:number>")
    def order(number: int) -> str:
        for part in range(10):
            memphis.client.produce(STATION, "web", f"order {number} {part}", nonblocking=True)
        return f"{os.getpid()} {memphis.client.connection_id}"

    return app


@memphis_sync.handler(STATION, group="billing", on_error="retry", delay_ms=10, max_delay_ms=100)
def on_order(message: memphis_sync.Message) -> None:
    """Writes down what it has handled; fails the first time where it is told to."""
    context = id(flask.g._get_current_object())
    assert "seen" not in flask.g  # each message has a context of its own
    flask.g.seen = context
    with Path(os.environ["TEST_DONE"]).open("a") as done:
        done.write(f"{bytes(message.data).decode()} {flask.current_app.name}\n")


def unmarked(message: memphis_sync.Message) -> None:
    """No handler."""


@memphis_sync.handler(STATION, group="billing", alias="archive")
def of_another_alias(message: memphis_sync.Message) -> None:
    """For a client that this application does not have."""
