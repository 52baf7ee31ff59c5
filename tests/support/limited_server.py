"""A nats-server with a user who has few rights, as the roles of a Memphis broker give them."""

from __future__ import annotations

from memphis_sync.broker.server.nats_server import NatsServer

LIMITED, PASSWORD = "limited", "few-rights"
# Of a user who may read station "st": what protocol reference 1.9 lists, as far as it matters here.
ALLOWED = (
    *("$JS.API.CONSUMER.LIST.st$1.>", "$JS.API.STREAM.MSG.GET.st$1.>", "$JS.API.STREAM.INFO.st$1"),
    *("$JS.API.STREAM.NAMES", "$JS.API.INFO", "$memphis_sync_station_list"),
)


class LimitedServer(NatsServer):
    """Its user "limited" may ask for ALLOWED alone."""

    def _authorization(self) -> list[str]:
        subjects = ", ".join(f'"{subject}"' for subject in ALLOWED)
        rights = f'permissions: {{ publish: [{subjects}], subscribe: ["_INBOX.>"] }}'
        return [
            line.replace(f'{{ user: "{LIMITED}', f'{{ {rights}, user: "{LIMITED}') for line in super()._authorization()
        ]
