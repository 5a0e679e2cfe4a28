"""Benchmarks, all or those that are named; each prints its table when it is done."""

import argparse
import sys
from collections.abc import Callable

from bench import calls, door, duplex, files, octets, replay, rivals, sizes
from bench.install import install
from tests.servers.host import Installed, Unavailable, open_directory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of rivals on the quicker lines; 3 for figures to keep")
    parser.add_argument("--sample", type=int, default=rivals.SAMPLE, help="messages of a corpus for rivals, at most")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the benchmarks; all without any")
    arguments = parser.parse_args()
    known: dict[str, Callable[[Installed], None]] = {
        "door": door.run,
        "files": lambda _: files.run(),
        "sizes": sizes.run,
        "calls": calls.run,
        "duplex": duplex.run,
        "rivals": lambda installed: rivals.run(installed, arguments.rounds, arguments.sample),
        "replay": lambda _: replay.run(),
        "octets": lambda _: octets.run(),
    }
    if unknown := sorted(set(arguments.names) - known.keys()):
        parser.error(f"no benchmark {' '.join(unknown)}; there are {' '.join(known)}")
    with open_directory() as path:
        installed = install(path)
        for name, run in known.items():
            if not arguments.names or name in arguments.names:
                try:
                    run(installed)
                except Unavailable as reason:
                    print(f"\n{name} is not measured: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
