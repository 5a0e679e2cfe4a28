"""The numbered file that a person means: a path, or a name such as STREAM.SEQ.batch to be looked up in the spool."""

import os

from batchmail.cli import start
from batchmail.core import numbered
from batchmail.core.errors import UsageError
from batchmail.core.numbered import Number
from batchmail.store.spool import become_owner
from batchmail.store.view import find_file


def find(config_file: str | None, named: str) -> str:
    """The file's path.  A path needs no configuration; root becomes the owner of what is read."""
    if os.path.exists(named):
        become_owner(named)
        return named
    number = numbered.parse(os.path.basename(named))
    if number is None:
        raise UsageError(f"{named}: no such file, and no name of one in the spool, such as STREAM.SEQ.batch")
    site, _ = start.load(config_file)
    spool = start.open_spool(site)
    return find_file(spool, number) or _not_there(number, site.spool)


def _not_there(number: Number, root: str) -> str:
    raise UsageError(f"{number.file_name} is not in {root}: it is settled, or never came; the mail log says more")
