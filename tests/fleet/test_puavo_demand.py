"""Which images clients have and want: files, and puavo-rest as its source has it."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.errors import (
    ConnectionLostError,
    LoginError,
    PermanentError,
    SettingsError,
)
from puavo_repository.fleet import fold, store
from puavo_repository.fleet.demand import from_file, from_puavo
from puavo_repository.prepare.demand import DEMAND, records
from support.fleet import DAY, built, offer
from support.puavo import ID, PuavoRest
from support.repository import Repository

OLD, NEW = built(0), built(1)


@pytest.mark.parametrize(
    "text",
    [
        f"{OLD},{NEW},12\n{NEW},{NEW},3\n",
        f"\ufeffsource,target,clients\r\n{ID},{NEW},10\r\n\r\n{OLD}, {NEW} ,2\r\n{NEW},{NEW},3",
        json.dumps([[OLD, NEW, 12], [NEW, NEW, "3"]]),
    ],
)
def test_a_file_is_csv_or_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "demand"
    path.write_text(text)
    assert from_file(path) == {(OLD, NEW): 12, (NEW, NEW): 3}


@pytest.mark.parametrize(
    "text",
    [
        f"{OLD},{NEW}",
        f"{OLD},{NEW},-3",
        f"{OLD},{NEW},many",
        f"a,b,c\n{OLD},nothing.img,3",
        "{}x",
        '{"a": 1}',
        "[1]",
        "[" * 100_000,
        '[{"source": 3}]',
        json.dumps([{"source": OLD, "target": NEW, "clients": 12}]),
        f"{OLD},{NEW},99999999999999999999",
    ],
)
def test_what_is_no_demand_is_refused_with_what_was_expected(text: str, tmp_path: Path) -> None:
    path = tmp_path / "demand"
    path.write_text(text)
    with pytest.raises(PermanentError, match=r"demand: this is no file of demand .*OLD\.img"):
        from_file(path)


@given(st.binary(max_size=200))
def test_no_file_breaks_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "demand"
    path.write_bytes(content)
    with contextlib.suppress(PermanentError):
        from_file(path)


def test_puavo_tells_what_its_devices_have_and_want(puavo: PuavoRest) -> None:
    assert from_puavo(puavo.url, "service", "secret") == {(OLD, NEW): 5, (OLD, OLD): 2}


def test_a_server_that_is_none_of_puavo_is_told_apart(puavo: PuavoRest) -> None:
    with pytest.raises(LoginError, match="Correct login"):
        from_puavo(puavo.url, "service", "wrong")
    for body in (b"<html>", b'{"error": 1}', b"[3]", b""):
        puavo.body = body
        with pytest.raises(SettingsError, match="does not answer like puavo-rest"):
            from_puavo(puavo.url, "service", "secret")
    puavo.status = 503
    with pytest.raises(ConnectionLostError, match="503"):
        from_puavo(puavo.url, "service", "secret")
    puavo.server_close()
    with pytest.raises(ConnectionLostError):
        from_puavo(puavo.url, "service", "secret")


def test_a_file_of_certificates_that_is_none_is_a_setting(puavo: PuavoRest, tmp_path: Path) -> None:
    missing, other = tmp_path / "missing.pem", tmp_path / "other.pem"
    other.write_text("no certificate")
    for path in (missing, other):
        with pytest.raises(SettingsError, match=rf"ca_file: {path} cannot be used.*PEM"):
            from_puavo(puavo.url, "service", "secret", str(path))


def test_an_address_that_is_none_is_a_setting() -> None:
    with pytest.raises(SettingsError, match="is no address"):
        from_puavo("https://host:port", "service", "secret")


def test_demand_is_what_counts_for_the_shares(repository: Repository) -> None:
    offer(repository.mirror, {OLD: 1000, NEW: 1000})
    path = repository.root / "demand.csv"
    path.write_text(f"{OLD},{NEW},30\n{NEW},{NEW},10\n{built(7)},{NEW},60\n")
    chosen = repository.settings(usage_demand=str(path))
    found = fold.demand_of_file(chosen)
    assert found is not None
    (note,) = fold.keep_demand(chosen, found)
    assert note == f"demand names 1 images that were never on offer here: {built(7)}"
    (series,) = fold.figures(chosen).series
    assert [(one.image, one.share, one.off) for one in series.shares] == [
        (built(7), 0.6, 0),
        (NEW, 0.1, 0),
        (OLD, 0.3, 0),
    ]


@pytest.mark.parametrize(
    ("after", "note"),
    [
        (0, ""),
        (30, f"demand is that of {DAY}: nothing newer was told"),
        (31, f"demand of {DAY} does not count any more: it is older than 30 days"),
    ],
)
def test_demand_counts_while_it_is_asked_for_and_for_a_month_where_nobody_answers(
    after: int, note: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(repository.mirror, {OLD: 1000, NEW: 1000})
    chosen = repository.settings(usage_demand="puavo")
    monkeypatch.setattr(store, "today", lambda: str(DAY))
    fold.keep_demand(chosen, Counter({(OLD, NEW): 30}))
    monkeypatch.setattr(store, "today", lambda: str(DAY + timedelta(after)))
    found = fold.figures(chosen)
    assert found.notes == ((note,) if note else ())
    expected = records(repository.mirror).get(DEMAND)
    assert expected is not None
    assert bool(found.series) == bool(expected.wanted) == (after <= 30)
    assert fold.figures(repository.settings()).series == ()
    expected = records(repository.mirror).get(DEMAND)
    assert expected is not None
    assert expected.wanted == ()
