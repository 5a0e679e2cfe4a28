"""Running rmail: one message on standard input, recipients as arguments, an exit status as the only answer.

Standard input is a regular file: from a pipe rmail exits 0 even when the
sendmail it runs failed.  The file has no name and is gone with the process;
nothing is to survive of it.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

from batchmail.core.errors import LineError

TIMEOUT_S = 600
STDERR_KEPT_OCTETS = 2048


class Exit(NamedTuple):
    status: int | None  # negative for a signal, None when it was stopped for taking too long
    stderr: bytes


def write_input(directory: str, pieces: Iterable[bytes]) -> BinaryIO:
    """A nameless file in `directory` that holds `pieces`.  Raises LineError."""
    try:
        file = tempfile.TemporaryFile(dir=directory)
    except OSError as error:
        raise LineError(f"cannot write below {directory}: {error.strerror}") from None
    try:
        for piece in pieces:
            file.write(piece)
        file.flush()
    except OSError as error:
        file.close()
        raise LineError(f"cannot write below {directory}: {error.strerror}") from None
    except BaseException:
        file.close()
        raise
    return file


def run(argv: Sequence[bytes], message: BinaryIO, directory: str) -> Exit:
    """Run rmail on the whole of `message`.  Raises LineError when it cannot be started."""
    os.lseek(message.fileno(), 0, os.SEEK_SET)
    with tempfile.TemporaryFile(dir=directory) as stderr:
        try:
            status: int | None = subprocess.run(
                argv, stdin=message, stdout=subprocess.DEVNULL, stderr=stderr, timeout=TIMEOUT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        except (OSError, ValueError) as error:
            raise LineError(
                f"cannot start {os.fsdecode(argv[0])}: {getattr(error, 'strerror', None) or error}"
            ) from None
        size_octets = os.fstat(stderr.fileno()).st_size
        said = os.pread(stderr.fileno(), STDERR_KEPT_OCTETS, max(0, size_octets - STDERR_KEPT_OCTETS))
    return Exit(status, said)
