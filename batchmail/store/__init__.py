"""The disk: the only room that touches it."""
