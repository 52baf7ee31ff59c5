"""What a server did during a handshake or said later; errors of nats-py's, so that its reconnecting goes on."""

from __future__ import annotations

from nats.errors import Error

from memphis_sync._protocol.server_errors import is_complaint, is_verdict


class ServerSaidError(Error):
    """
    The server sent ``-ERR``.

    Attributes:
        text: What it said, without the quotes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"the broker said {text!r}")
        self.text = text

    @property
    def is_verdict(self) -> bool:
        """Whether it is a verdict on the credentials."""
        return is_verdict(self.text)

    @property
    def is_complaint(self) -> bool:
        """Whether it concerns a single operation."""
        return is_complaint(self.text)


class NotMemphisError(Error):
    """What answered does not speak the protocol."""
