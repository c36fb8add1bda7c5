"""The night's work, one module a stage, in the order in which they run.

discover, configure, plan, fingerprint, diff, describe, report; ``clean`` is a part of the second
and of the last but one. Each looks for itself at what is there, and may be repeated.
"""

from puavo_repository.prepare import clean, configure, describe, diff, discover, fingerprint, report

__all__ = ["clean", "configure", "describe", "diff", "discover", "fingerprint", "report"]
