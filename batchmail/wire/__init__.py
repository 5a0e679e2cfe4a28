"""Sockets, children and the log: the only room that touches them."""
