"""The fleet: what clients download, which rdiffs are worth making, why one is large."""
