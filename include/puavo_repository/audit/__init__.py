"""Is the mirror right: here, on each remote, and as clients see it? Nothing is changed."""
