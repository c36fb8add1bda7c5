"""A remote tree over SFTP."""
