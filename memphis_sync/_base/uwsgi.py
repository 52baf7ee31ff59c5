"""What uWSGI must allow: it is the one server that keeps the threads of an application from running."""

from __future__ import annotations

import sys

from memphis_sync.errors import ConfigurationError


def check_uwsgi() -> None:
    """
    Refuses a uWSGI that does not let Python's threads run between requests.

    Raises:
        ConfigurationError: It was started without ``--enable-threads`` and ``--threads``, and needs one of them.

    Source: ``has_threads`` of the module that uWSGI has in its processes; 2.0.21 sets it, and it is always 1 in 2.0.30.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and not getattr(uwsgi, "has_threads", True):
        raise ConfigurationError(
            "uWSGI runs without threads, so that messages would be sent only while a request is served; start it with "
            "--enable-threads (enable-threads = true)"
        )
