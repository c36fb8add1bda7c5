"""Is the mirror right: here, on each remote, and as clients see it? Only a repair changes it."""
