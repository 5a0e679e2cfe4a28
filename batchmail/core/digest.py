"""SHA-256: OpenSSL's where hashlib is loaded already, else the interpreter's own.

To load OpenSSL costs a door that starts once per message a tenth of its start.  The interpreter's own makes some
250 MB/s, more than such a door is given; a program that lives longer loads hashlib first, and has four times that.
"""

import sys

try:
    if "hashlib" in sys.modules:
        from hashlib import sha256
    elif sys.version_info >= (3, 12):
        from _sha2 import sha256  # type: ignore[import-not-found,no-redef,unused-ignore]
    else:
        from _sha256 import sha256  # type: ignore[import-not-found,no-redef,unused-ignore]
except ImportError:
    from hashlib import sha256

__all__ = ["sha256"]
