"""``puavo-update-repository audit``: is the mirror right here, on remotes, and for its clients?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from puavo_repository import settings
from puavo_repository.audit.audit import audit
from puavo_repository.cli import bars, options, printed
from puavo_repository.publish.publisher import Options


def run(given: Sequence[str]) -> int:
    """Return 0 where there is no error, 1 where there is one; warnings do not count."""
    asked = _parser().parse_args(given)
    chosen = settings.load(vars(asked), command=True)
    how, holder = Options.load({}), f"{printed.PROGRAM} audit"
    targets = options.targets(asked.upload, chosen, how)
    with bars.shown() as watcher:
        report = audit(
            chosen, targets, options=how, repair=asked.repair, holder=holder, watcher=watcher
        )
    if asked.json:
        printed.print_json(report.to_dict())
    else:
        printed.print_lines(report.lines(findings=False))
    for finding in report.findings:
        printed.say(f"{finding.severity.value}: {finding}")
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "audit",
        upload="a published mirror; may be repeated; default PUAVO_REPOSITORY_REMOTE",
        description="Reads the whole mirror again, compares published mirrors and what clients "
        "see by https with it, and makes one update as a laptop does. Nothing is changed, unless "
        "repairs are asked for.",
        epilog="Exit status: 0 no error; 1 clients are, or soon will be, led to something wrong "
        "or cut off; 2 bad usage or settings.",
    )
    options.add_setting(parser, "audit_share", "--share", metavar="N", dest="audit_share")
    parser.add_argument(
        "--no-https",
        action="store_false",
        dest="audit_https",
        default=None,
        help="do not look at what clients see",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="send wrong remote files again; remove wrong local rdiffs, to be made anew",
    )
    return parser
