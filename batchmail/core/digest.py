"""SHA-256 without OpenSSL: loading that by hashlib costs a door that starts once per message a tenth of its start.

The interpreter's own makes some 250 MB/s, more than a door is given.
"""

try:
    from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found,no-redef,unused-ignore]
    except ImportError:
        from hashlib import sha256  # type: ignore[assignment,unused-ignore]

__all__ = ["sha256"]
