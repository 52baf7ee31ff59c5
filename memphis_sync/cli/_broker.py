"""``memphis-sync broker``: the embedded broker, with the options of ``python -m memphis_sync.broker``."""

from __future__ import annotations

import click


@click.command(
    name="broker",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(args: tuple[str, ...]) -> int:
    """Run a Memphis-compatible broker on a stock nats-server."""
    from memphis_sync.broker.__main__ import main

    return main(list(args), "memphis-sync broker")
