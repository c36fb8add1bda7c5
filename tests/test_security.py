"""The threat model names a test for each of its lines: there it is."""

from __future__ import annotations

import re

from support.repository import ROOT


def test_each_line_of_the_threat_model_has_its_test() -> None:
    tables = (ROOT / "SECURITY.md").read_text().split(" | what holds | test |\n|---|---|---|\n")
    lines = [line for table in tables[1:] for line in table.partition("\n\n")[0].splitlines()]
    assert len(lines) > 20
    for line in lines:
        named = re.search(r"\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", line)
        assert named, f"no test is named: {line}"
        assert f"def {named[2]}(" in (ROOT / named[1]).read_text(), named[0]
