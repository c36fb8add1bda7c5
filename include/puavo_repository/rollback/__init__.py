"""Clients get the metadata of an earlier generation back."""
