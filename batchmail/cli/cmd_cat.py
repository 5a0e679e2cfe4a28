"""batchmail cat: a batch as text."""

import sys
from collections.abc import Iterator

import click

from batchmail.cli import files
from batchmail.cli.tables import end_with_reader
from batchmail.core.errors import SpoolError
from batchmail.flow.reading import read_file


@click.command("cat", short_help="Print a batch as text.")
@click.argument("batch")
@click.pass_obj
def command(config_file: str | None, batch: str) -> int:
    """Print the RFC 2442 text of BATCH, a path or a name as in the mail log; a report's lines of JSON.

    `zstd -dc` prints the same, without looking for the file and without bounds.
    """
    path = files.find(config_file, batch)
    end_with_reader()
    for octets in _pieces(path):
        sys.stdout.buffer.write(octets)
    sys.stdout.buffer.flush()
    return 0


def _pieces(path: str) -> Iterator[bytes]:
    """An error of reading names the file; one of writing is standard output's."""
    try:
        yield from read_file(path)
    except OSError as error:
        raise SpoolError(f"{path}: {error.strerror}") from None
