"""The programs of this checkout, installed below a directory that every account can enter."""

import os
import subprocess
import sys

from tests.servers.host import Installed
from tests.servers.packages import CHECKOUT


def install(path: str) -> Installed:
    """Install below `path`, to be run by the interpreter that runs this."""
    places = [f"DESTDIR={path}", "PREFIX=/usr", f"PYTHON={sys.executable}"]
    command = ["make", "-s", "-C", CHECKOUT, "install", *places]
    subprocess.run(command, check=True, umask=0o022, stdout=subprocess.DEVNULL)
    return Installed(os.path.join(path, "usr", "bin"), os.path.join(path, "usr", "lib", "batchmail"))
