"""Real servers for the tests, and stand-ins for the dialogue tests.

Each server is a class that lives below one directory, on loopback, on a port of its own choosing, and leaves nothing
running: `with Exim(directory) as exim: ...`.  Where one cannot be had, `Unavailable` says why in one line.
"""
