"""The numbered file that a person means: a path, or a name such as STREAM.SEQ.batch to be looked up in the spool."""

import os

from batchmail.cli import start
from batchmail.core import numbered
from batchmail.core.errors import BadContent, SpoolError, UsageError
from batchmail.core.numbered import Number
from batchmail.store.spool import become_owner
from batchmail.store.view import find_file

_BEGINNINGS = (b"\x50\x2a\x4d\x18", b"\x28\xb5\x2f\xfd")  # of a skippable and of a plain frame of Zstandard


def find(config_file: str | None, named: str) -> str:
    """The file's path.  A path needs no configuration; root becomes the owner of what is read."""
    if os.path.exists(named):
        become_owner(named)
        return _a_batch(named)
    number = numbered.parse(os.path.basename(named))
    if number is None:
        raise UsageError(f"{named}: no such file, and no name of one in the spool, such as STREAM.SEQ.batch")
    site, _ = start.load(config_file)
    spool = start.open_spool(site)
    return find_file(spool, number) or _not_there(number, site.spool)


def _a_batch(path: str) -> str:
    """The path, unless the file begins neither like a batch nor like what else has a number."""
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise SpoolError(f"{path}: {error.strerror}") from None
    if head not in _BEGINNINGS:
        raise BadContent(f"{path} is not a batch, nor a report or a request")
    return path


def _not_there(number: Number, root: str) -> str:
    raise UsageError(f"{number.file_name} is not in {root}: it is settled, or never came; the mail log says more")
