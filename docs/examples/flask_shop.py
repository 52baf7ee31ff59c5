"""A shop: an application factory, a view that produces, a handler for its messages."""

import flask

import memphis_sync
from memphis_sync.contrib.flask import FlaskMemphis

memphis = FlaskMemphis()


def create_app():
    app = flask.Flask(__name__)
    app.config["MEMPHIS_STATIONS"] = {"orders": {"partitions_number": 3}}
    app.config.from_prefixed_env()  # FLASK_MEMPHIS_URL and others
    memphis.init_app(app)

    @app.post("/orders")
    def order():
        memphis.client.produce("orders", "web", flask.request.get_json())
        return {"stored": True}, 201  # it is: produce() returned

    return app


@memphis_sync.handler("orders", group="billing")
def on_order(message):
    print("charged in", flask.current_app.name, message.json())
