"""The TLS context for the options of connect(), and the error texts for a refused handshake."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Optional

from memphis_sync.errors import ConfigurationError

NO_TLS = "the broker does not demand TLS, so the credentials would cross the network in the clear; nothing was sent"
NEEDS_TLS = "the broker demands TLS: connect with memphis+tls:// in the URL, or with ca_file or tls"
_PARTIAL_CHAIN = 0x80000  # ssl.VERIFY_X509_PARTIAL_CHAIN, which Python 3.9 has no name for
_NO_CERTIFICATE = "the broker demands a client certificate: give cert_file and key_file"

# X509_V_ERR_... of OpenSSL, as ssl.SSLCertVerificationError has it in verify_code.
_UNKNOWN_CA = "the broker's certificate was not issued by a CA that is trusted here; give its CA as ca_file"
_VERIFY_REASONS = {
    9: "the broker's certificate is not valid yet",
    10: "the broker's certificate has expired",
    18: _UNKNOWN_CA,  # self-signed
    19: _UNKNOWN_CA,  # a self-signed one in the chain
    20: _UNKNOWN_CA,  # the issuer is not there
    21: _UNKNOWN_CA,  # nor the first certificate's
    23: "the broker's certificate has been revoked",
    62: "the broker's certificate is for another host",
    64: "the broker's certificate is for another host",  # by IP address
}
# A part of OpenSSL's own name of the error; the first that is found counts.
_ALERT_REASONS = (
    ("ALERT_CERTIFICATE_REQUIRED", _NO_CERTIFICATE),  # TLS 1.3
    ("ALERT_BAD_CERTIFICATE", _NO_CERTIFICATE),  # TLS 1.2, by Go
    ("ALERT_UNKNOWN_CA", "the broker refused the client certificate: it does not trust its CA"),
    ("ALERT_CERTIFICATE_EXPIRED", "the broker refused the client certificate: it has expired"),
    ("ALERT_CERTIFICATE", "the broker refused the client certificate"),
    ("WRONG_VERSION_NUMBER", "what answers there does not speak TLS"),
    ("PROTOCOL_VERSION", "the broker and this client have no version of TLS in common"),
    ("UNSUPPORTED_PROTOCOL", "the broker and this client have no version of TLS in common"),
    # TLS 1.2, by Go: it says no more in either case.
    (
        "HANDSHAKE_FAILURE",
        "the broker demands a client certificate (give cert_file and key_file), or has no way to encrypt in common",
    ),
)


def tls_reason(exc: ssl.SSLError) -> str:
    """Why a TLS handshake failed: our words, and OpenSSL's own behind them."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        words = _VERIFY_REASONS.get(exc.verify_code, "the broker's certificate cannot be trusted")
        return f"{words} ({exc.verify_message.rstrip('.')})"
    name = f"{exc.reason} {exc}".upper().replace(" ", "_")  # older Pythons know some reasons by their text only
    words = next((words for part, words in _ALERT_REASONS if part in name), "the TLS handshake failed")
    return f"{words} ({exc.reason or exc})"


def file_context(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    """
    The context for both links: the CA's certificates, or the system's without one, and a client certificate if given.

    Raises:
        ConfigurationError: A file is missing, unreadable or only half of a pair.
    """
    if bool(cert_file) != bool(key_file):
        missing, given = ("key_file", "cert_file") if cert_file else ("cert_file", "key_file")
        raise ConfigurationError(f"{given} is given without {missing}; a client certificate needs both")
    for option, path in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if path and not Path(path).is_file():
            raise ConfigurationError(f"{option} is {path!r}; there is no such file")
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if ca_file:  # each certificate in it is trusted, the broker's own too; Python 3.13 does so by itself
            context.verify_flags |= _PARTIAL_CHAIN
    except (ssl.SSLError, OSError) as exc:
        raise ConfigurationError(f"ca_file is {ca_file!r}; it cannot be read as PEM certificates ({exc})") from exc
    if cert_file:
        try:
            # An encrypted key would be asked for on the terminal otherwise.
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            raise ConfigurationError(
                f"cert_file is {cert_file!r} and key_file is {key_file!r}; "
                f"they cannot be read as a certificate and its key ({exc}); for an encrypted key load both into an "
                "ssl.SSLContext and give that as tls"
            ) from exc
    return context


def check_context(option: str, value: object) -> Optional[ssl.SSLContext]:
    """None, or a context for clients."""
    if value is None:
        return None
    if not isinstance(value, ssl.SSLContext):
        raise ConfigurationError(f"{option} is of type {type(value).__name__}; it must be an ssl.SSLContext")
    if value.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError(
            f"{option} is a context for servers (PROTOCOL_TLS_SERVER); make one with ssl.create_default_context()"
        )
    return value
