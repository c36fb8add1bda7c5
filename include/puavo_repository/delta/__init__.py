"""How an rdiff is made and proven; see ``engine`` for the interface."""
