"""What a person at a terminal sees of a campaign beside its tables, and how they end it."""

from __future__ import annotations

import sys
from collections.abc import Callable


def show(text: str) -> None:
    """Show on a terminal where the campaign is, in one line that each table line takes away."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def until_ended(main: Callable[[], int]) -> int:
    """Run a program until it ends, or Ctrl-C does: that is no failure to be traced."""
    try:
        return main()
    except KeyboardInterrupt:
        show("")
        print("Ended", file=sys.stderr)
        return 130
