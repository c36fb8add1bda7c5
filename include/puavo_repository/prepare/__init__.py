"""The night's work, one module a stage; each looks for itself, and may be repeated.

discover, configure (after ``clean``), plan, fingerprint, diff, describe, report.
"""

from puavo_repository.prepare import configure, describe, diff, discover, fingerprint, report

__all__ = ["configure", "describe", "diff", "discover", "fingerprint", "report"]
