"""The night's work, one module a stage, in the order in which they run.

discover, configure, plan, fingerprint, diff, describe, report. Each takes settings and small
frozen dataclasses, and may be repeated.
"""

from puavo_repository.stages import (
    configure,
    describe,
    diff,
    discover,
    fingerprint,
    plan,
    report,
)

__all__ = ["configure", "describe", "diff", "discover", "fingerprint", "plan", "report"]
