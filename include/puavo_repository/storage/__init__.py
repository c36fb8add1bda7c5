"""How files are written: atomically and durably, locally and on remote mirrors."""
