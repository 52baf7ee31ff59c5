"""``memphis-sync broker``: the embedded broker, with the options of ``python -m memphis_sync.broker``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


class Broker(click.Command):
    """Completes the options, which are another parser's: a server starts without loading a command line library."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What may stand there."""
        from memphis_sync.broker.__main__ import options_of, parser_of

        known = options_of(parser_of("memphis-sync broker"))
        return [CompletionItem(name) for name in known if name.startswith(incomplete or "-")]


@click.command(
    name="broker",
    cls=Broker,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(args: tuple[str, ...]) -> int:
    """Run a Memphis-compatible broker on a stock nats-server."""
    from memphis_sync.broker.__main__ import main

    return main(list(args), "memphis-sync broker")
