"""Starting a program whose libraries may be missing: which package to install, instead of a traceback."""

import importlib
import os
import sys
from typing import NoReturn

_PACKAGES = ("click", "cryptography", "paramiko", "zstandard")  # Debian puts python3- before each


def launch(program: str, module: str, *arguments: object) -> int:
    """Run the `main` of a module of batchmail; returns the exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us: no file of ours is to get its number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    try:
        code: int = importlib.import_module(module).main(*arguments)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _PACKAGES:
            raise
        text = f"python3-{name} is missing: apt install python3-{name}, or install {name} for {sys.executable}"
        print(f"{program}: {text}", file=sys.stderr)
        return 78
    return code


def leave(code: int) -> NoReturn:
    """End the program as it is: to take it apart takes longer than many a round trip, and what counts is on disk."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads on, or it is closed
            code = code or 75
    os._exit(code)
