"""Trials of the whole: a state machine that does to a repository whatever may be done to it."""
