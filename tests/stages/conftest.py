"""The servers that these tests talk to."""

from server_fixtures import sshd, sshd_without_copy

__all__ = ["sshd", "sshd_without_copy"]
