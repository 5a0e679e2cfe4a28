"""All benchmarks; each prints its table when it is done."""

import os
import subprocess
import sys

from bench import calls, door, files
from tests.servers.host import Installed, Unavailable, open_directory
from tests.servers.packages import CHECKOUT


def main() -> int:
    with open_directory() as path:
        command = [
            "make",
            "-s",
            "-C",
            CHECKOUT,
            "install",
            f"DESTDIR={path}",
            "PREFIX=/usr",
            f"PYTHON={sys.executable}",
        ]
        subprocess.run(command, check=True, umask=0o022, stdout=subprocess.DEVNULL)
        installed = Installed(os.path.join(path, "usr", "bin"), os.path.join(path, "usr", "lib", "batchmail"))
        door.run(installed)
        files.run()
        try:
            calls.run(installed)
        except Unavailable as reason:
            print(f"\nCalls are not measured: {reason}")
    return 0


sys.exit(main())
