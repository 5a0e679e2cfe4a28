"""Conversations with a peer or a server, without I/O: bytes in, events out."""
