"""Sockets, children and the log: the only room that touches them."""

import sys

# Where it finds it, the SSH library loads `invoke`, almost half of all that it loads, for the shell that OpenSSH's
# `Match exec` is run in; we run none, and say so (`wire.ssh_config`).
sys.modules.setdefault("invoke", None)  # type: ignore[arg-type]
