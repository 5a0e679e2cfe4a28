"""batchmail: the program for people, cron, timers and if-up.d; its commands are loaded when they are run."""

import importlib
from typing import Any

import click

from batchmail import __version__
from batchmail.core.errors import BatchmailError

COMMANDS = (
    *("setup", "call", "run", "queue", "status", "show", "cat", "inspect", "check", "demo", "key"),
    *("hold", "release", "requeue", "bounce", "remove", "move", "retire"),
    *("resend", "trace", "audit"),
)


class _Commands(click.Group):
    """A group whose command NAME is `command` in batchmail.cli.cmd_NAME."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"batchmail.cli.cmd_{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", "config_file", metavar="FILE", help="The configuration file.")
@click.version_option(__version__, prog_name="batchmail")
@click.pass_context
def command(ctx: click.Context, config_file: str | None) -> None:
    """Carry e-mail to hosts that are only sometimes reachable."""
    ctx.obj = config_file


def main() -> int:
    """Run a command; returns the exit code."""
    try:
        code: Any = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 64
    except click.Abort:
        return 75
    except BatchmailError as error:
        click.echo(f"batchmail: {error}", err=True)
        return error.exit_code
    except SystemExit as error:
        if error.code != 1:
            raise
        return 75  # nobody reads on: click makes 1 of that, which says something else here
    except OSError as error:
        click.echo(f"batchmail: {error.filename or 'standard output'}: {error.strerror or error}", err=True)
        return 75
    return code if isinstance(code, int) else 0
