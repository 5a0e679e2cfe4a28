"""Programs whose libraries are missing say which package to install."""

import os
import subprocess
import sys

import pytest

from tests.cli.programs import BIN


@pytest.mark.parametrize(
    ("program", "name", "arguments"),
    [
        ("batchmail", "click", ["status"]),
        ("batchmail", "paramiko", ["key", "mx"]),
        ("batchmail", "zstandard", ["status"]),
        ("batchmail-receive", "zstandard", ["--peer", "home"]),
    ],
)
def test_a_missing_library_is_named_with_its_package(tmp_path, program, name, arguments):
    code = f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n"
    (tmp_path / f"{name}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, os.path.join(BIN, program), *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 78
    assert done.stderr.decode().startswith(f"{program}: python3-{name} is missing: apt install python3-{name}")
    assert done.stderr.count(b"\n") == 1
