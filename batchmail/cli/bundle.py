"""All that the pipe door loads, in one file: to find and read thirty takes longer than to accept a message.

    python3 -IS bundle.py ROOT     writes ROOT/pipe.TAG; ROOT holds the package, TAG names this Python

`make install` does it.  In the file are, marshalled, the code of `run` and the modules in the order in which they
are loaded: name, path below ROOT, time and size of its source, code.  Where a source is another by now nothing of
it counts, and the door imports them one by one, as it does where there is no bundle or its Python is another.
"""

import __future__

import marshal
import os
import sys
from importlib import import_module
from types import CodeType

Entry = tuple[str, str, int, int, CodeType]


def run(root: str, entries: list[Entry]) -> None:
    """Load the modules.  It is called with the global names of `bin/batchmail-pipe`: `os` and `sys` are there too."""
    for _, path, time_s, octets, _ in entries:
        status = os.stat(f"{root}/{path}")
        if int(status.st_mtime) != time_s or status.st_size != octets:
            return
    for name, path, _, _, code in entries:
        module = sys.modules[name] = type(sys)(name)
        if path.endswith("/__init__.py"):
            module.__path__ = [f"{root}/{os.path.dirname(path)}"]
        exec(code, module.__dict__)  # noqa: S102  as trusted as the modules


def make(root: str) -> bytes:
    """The bundle of the package below `root`, in an interpreter that has nothing of it loaded yet."""
    sys.path.insert(0, root)
    import_module("batchmail.cli.pipe")
    names = [name for name in sys.modules if name.partition(".")[0] == "batchmail"]  # in the order of being done
    return marshal.dumps((_bare(run.__code__), [_compile(root, name) for name in names]))


def _compile(root: str, name: str) -> Entry:
    path = os.path.relpath(str(sys.modules[name].__file__), root)
    with open(f"{root}/{path}", "rb") as file:
        status = os.fstat(file.fileno())
        # Without what only people and checkers read: docstrings, and annotations as more than words.
        code = compile(file.read(), path, "exec", __future__.annotations.compiler_flag, dont_inherit=True, optimize=2)
    return name, path, int(status.st_mtime), status.st_size, _bare(code)


def _bare(code: CodeType) -> CodeType:
    """Without the numbers of its lines, which stand in no message."""
    consts = (_bare(const) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_consts=tuple(consts), co_linetable=b"")


if __name__ == "__main__":
    with open(f"{sys.argv[1]}/pipe.{sys.implementation.cache_tag}", "wb") as bundle:
        os.fchmod(bundle.fileno(), 0o644)  # for all to read, like the modules, whoever installs
        bundle.write(make(sys.argv[1]))
