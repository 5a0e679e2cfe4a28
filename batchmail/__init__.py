"""batchmail carries e-mail to hosts that are only sometimes reachable."""

__version__ = "1.0.0"
