"""The night's work, one module a stage; each looks for itself, and may be repeated.

discover, configure (which begins with ``clean``), plan, fingerprint, diff, describe, report.
"""

from puavo_repository.prepare import clean, configure, describe, diff, discover, fingerprint, report

__all__ = ["clean", "configure", "describe", "diff", "discover", "fingerprint", "report"]
