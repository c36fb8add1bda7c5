"""The local mirror reaches a remote: upload → switch → clean."""
