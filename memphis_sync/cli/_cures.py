"""What helps when a step of doctor fails: one sentence for each cause."""

from __future__ import annotations

import socket
import ssl
from typing import NamedTuple

from memphis_sync._nats.handshake import DNS, INFO, LOGIN, TCP, TLS
from memphis_sync._options.tls import NEEDS_TLS, NO_TLS
from memphis_sync.errors import AuthenticationError, ServerError

from ._origins import HOST

SETTINGS, JETSTREAM, CONTROL, STORED = "settings", "JetStream", "control", "stored"
_HOST_MISMATCH = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NOT_NOW = (9, 10)  # not yet valid, expired
_ALERT = b"\x15\x03"  # how TLS begins its answer to what is not TLS
_PROBE_S = 2.0
_NO_RESPONDERS, _FORBIDDEN = 503, 403


class Place(NamedTuple):
    """
    Where a step failed.

    Attributes:
        host, port: The broker.
        named_by: ``--url`` or the variable that names it.
        secret_from: Where the password or token comes from.
    """

    host: str
    port: int
    named_by: str
    secret_from: str

    @property
    def port_from(self) -> str:
        """What names the port."""
        return "MEMPHIS_PORT" if self.named_by == HOST else self.named_by


def cure_of(step: str, error: Exception, place: Place) -> str:
    """What to do about it."""
    if step == SETTINGS:
        return "export MEMPHIS_URL=memphis://USER:PASSWORD@HOST:6666, or give --url memphis://USER@HOST:6666"
    if step == DNS:
        return (
            f"is {place.host!r} in {place.named_by} spelt right? 'getent hosts {place.host}' asks the same resolver; "
            "an IP address works without one"
        )
    if step == TCP:
        return _of_tcp(error, place)
    if step == INFO:
        return _of_info(place)
    if step == TLS:
        return _of_tls(error, place)
    if step == LOGIN:
        return _of_login(error, place)
    if step == JETSTREAM:
        return (
            "start that nats-server with JetStream (nats-server -js) and a control plane in front of it ('memphis-sync "
            "broker --nats URL'), or run 'memphis-sync broker', which brings both"
        )
    return _of_work(error, place)


def _of_tcp(error: Exception, place: Place) -> str:
    if "refused" in str(error):
        return (
            f"is the broker running there ('memphis-sync broker' starts one), and is {place.port} its port? A broker "
            f"listens on 6666 unless it is told otherwise; correct {place.port_from}"
        )
    return (
        f"something on the way drops the packets, or the machine is off: check firewalls and security groups for TCP "
        f"port {place.port}, and the address in {place.named_by}"
    )


def _of_info(place: Place) -> str:
    said = _what_answers(place)
    if said.startswith(b"HTTP/"):
        return (
            f"port {place.port} is HTTP: give the broker's own port (6666 unless it was told otherwise) in "
            f"{place.port_from}. A gateway is for memphis_sync.http.connect()"
        )
    if said.startswith(_ALERT):
        return (
            f"port {place.port} speaks TLS from its first byte, as HTTPS does; a broker begins in plain text. Give the "
            f"broker's own port in {place.port_from}, not that of a web server or of a proxy that ends TLS"
        )
    return (
        f"what listens on {place.host}:{place.port} is not a Memphis broker, or it hangs: check the port in "
        f"{place.port_from}, and the broker's log"
    )


def _what_answers(place: Place) -> bytes:
    """The beginning of the answer to a line of HTTP, with which web servers and TLS show themselves."""
    try:
        with socket.create_connection((place.host, place.port), _PROBE_S) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(64)
    except OSError:
        return b""


def _of_tls(error: Exception, place: Place) -> str:
    text, cause = str(error), error.__cause__
    if NEEDS_TLS in text:
        return f"write memphis+tls:// instead of memphis:// in {place.named_by} (or set MEMPHIS_CA_FILE)"
    if NO_TLS in text:
        return (
            f"turn TLS on at the broker (memphis-sync broker --tls-cert FILE --tls-key FILE), or write memphis:// in "
            f"{place.named_by} if nobody else is on that network"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _HOST_MISMATCH:
            return f"connect with a name that the certificate is for, in place of {place.host!r} in {place.named_by}"
        if cause.verify_code in _NOT_NOW:
            return "renew the broker's certificate; if it is fine, this machine's clock is wrong"
        return (
            f"name the CA that has issued the broker's certificate: memphis+tls://...?ca_file=ca.pem in "
            f"{place.named_by}, or MEMPHIS_CA_FILE beside MEMPHIS_HOST"
        )
    return (
        "if the broker wants a client certificate, give cert_file and key_file in the URL (or MEMPHIS_CERT_FILE and "
        "MEMPHIS_KEY_FILE beside MEMPHIS_HOST); the broker's log has its side of it"
    )


def _of_login(error: Exception, place: Place) -> str:
    if isinstance(error, AuthenticationError):
        own = "" if place.secret_from == place.named_by else f" in {place.named_by}"
        return (
            f"check the user name{own} and the secret in {place.secret_from}. A broker in token mode "
            "wants ?auth=token in the URL, or MEMPHIS_TOKEN; the user of a new 'memphis-sync broker' is root with "
            "password memphis"
        )
    return "the broker ends the connection during the login: its log says why; it may be starting or full"


def _of_work(error: Exception, place: Place) -> str:
    code = error.code if isinstance(error, ServerError) else 0
    if code == _NO_RESPONDERS:
        return (
            "this is a nats-server without a Memphis control plane: run 'memphis-sync broker --nats "
            f"nats://{place.host}:{place.port}' beside it, and connect to that; or the broker is still starting"
        )
    if code == _FORBIDDEN or "permissions violation" in str(error).lower():
        return "this user may not create stations, which this check needs: ask whoever runs the broker, or use root"
    return "the connection is fine, the broker's work is not: look at its log, its disk and its memory"
