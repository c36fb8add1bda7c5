"""Compiled code, loaded once: what is forked after that has it."""

from puavo_repository.delta import contained

contained._load()
