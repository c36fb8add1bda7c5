"""What is said of how much there is, and how much of it is done."""

from __future__ import annotations

import pytest

from puavo_repository.progress import format_bytes


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (999_940, "999.9 kB"),
        (999_960, "1.00 MB"),
        (1_509_994_496, "1.51 GB"),
        (999_999_999_999, "1.00 TB"),
    ],
)
def test_bytes_are_told_in_the_unit_that_suits_them(count: float, said: str) -> None:
    assert format_bytes(count) == said
