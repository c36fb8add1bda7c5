"""The local mirror: its files, records and digests."""
