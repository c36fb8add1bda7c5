"""The page tells why an rdiff is so large; a click makes no more work than one at a time."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from puavo_repository.errors import ImageError, StorageError
from puavo_repository.fleet import explain as module
from puavo_repository.fleet.explanation import Cause, Explanation, Item
from puavo_repository.web import page
from puavo_repository.web.explainer import Explainer
from web.mirrors import make_mirror

FOUND = Explanation("r", "a", "b", 100, 1000, [Item("/var/log/<b>", 100, Cause.NEW, "p")])


@pytest.fixture
def rdiffs(tmp_path: Path) -> list[str]:
    return [path.name for path in make_mirror(tmp_path).rdiffs.iterdir()]


def test_it_is_worked_out_once_and_another_waits(
    tmp_path: Path, rdiffs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, asked = Event(), Event(), []

    def slow(rdiff: Path, *_: Path) -> Explanation:
        asked.append(rdiff.name)
        begun.set()
        go_on.wait(60)
        return FOUND

    monkeypatch.setattr(module, "explain", slow)
    explainer = Explainer(lambda: tmp_path)
    first = Thread(target=explainer.answer, args=[rdiffs[0]])
    first.start()
    assert begun.wait(60)
    assert explainer.answer(rdiffs[1])[0] == 503
    assert explainer.answer(rdiffs[0])[0] == 503
    go_on.set()
    first.join()
    assert [explainer.answer(name)[0] for name in (*rdiffs[:2], *rdiffs[:2])] == [200] * 4
    assert asked == rdiffs[:2]
    for number in range(20):
        (tmp_path / "rdiffs" / rdiffs[1]).write_bytes(bytes(number))  # is another one each time
        explainer.answer(rdiffs[1])
    assert len(explainer._kept) == 16


def test_what_may_pass_is_tried_again_and_what_stays_is_not(
    tmp_path: Path, rdiffs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [StorageError("x", "slow disk"), ImageError("x", "no squashfs")]

    def failing(*_: Path) -> Explanation:
        raise errors.pop(0)

    monkeypatch.setattr(module, "explain", failing)
    explainer = Explainer(lambda: tmp_path)
    answers = [explainer.answer(rdiffs[0]) for _ in range(3)]
    assert [status for status, _ in answers] == [503, 409, 409]
    assert "no squashfs" in answers[2][1]


def test_images_that_are_back_are_looked_at(
    tmp_path: Path, rdiffs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "explain", lambda *_: FOUND)
    (image,) = tmp_path.glob(f"{rdiffs[0].partition('--')[0]}*.img")
    kept = image.rename(tmp_path / "away")
    explainer = Explainer(lambda: tmp_path)
    status, text = explainer.answer(rdiffs[0])
    assert (status, image.name in text) == (409, True)
    kept.rename(image)
    assert explainer.answer(rdiffs[0])[0] == 200


@pytest.mark.parametrize("name", ["../meta/x", "x.rdiff", "%2e%2e", "a" * 300, "CKSUMS"])
def test_only_rdiffs_of_the_mirror_are_looked_at(tmp_path: Path, name: str) -> None:
    make_mirror(tmp_path)
    assert Explainer(lambda: tmp_path).answer(name)[0] == 404


def test_the_page_shows_bars_and_advice_and_escapes_names() -> None:
    html = page.render_explanation("r", FOUND)
    assert "/var/log/&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<rect") == 4  # one row in each view
    assert 'width="100.0"' in html
    assert "Empty /var/log" in html
    assert "style=" not in html  # which the page's policy would not allow
