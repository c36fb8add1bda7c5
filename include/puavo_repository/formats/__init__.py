"""What lies on disk, one module a format; pure functions from bytes to data and back."""
