"""``memphis-sync completion``: the script with which a shell completes commands and options."""

from __future__ import annotations

import click

from ._app import app, need_output
from ._group import command as command_of, examples
from ._streams import write_result

PROGRAM = "memphis-sync"
VARIABLE = "_MEMPHIS_SYNC_COMPLETE"  # where click looks for what the shell asks


@command_of(
    name="completion",
    epilog=examples(
        'eval "$(memphis-sync completion bash)"',
        "memphis-sync completion zsh > ~/.zfunc/_memphis-sync",
        "memphis-sync completion fish | source",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Write the script that makes SHELL complete this command."""
    from click.shell_completion import get_completion_class

    need_output()
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    write_result(kind(app, {}, PROGRAM, VARIABLE).source())
