"""The five steps, accept, seal, exchange, replay and settle: one module per arrow."""
