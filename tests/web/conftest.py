"""One browser for all that looks at the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from puavo_repository.web import page
from support.browser import Browser, browser
from web.mirrors import make_mirror
from web.site import Site


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def chromium(one_browser: Browser) -> Browser:
    """Return the browser without what earlier pages asked for and complained of."""
    one_browser.driver.get("about:blank")
    one_browser.hosts()
    one_browser.complaints()
    return one_browser


@pytest.fixture
def site(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return the page of a good mirror, that asks several times a second."""
    monkeypatch.setattr(page, "REFRESH", 0.3)
    make_mirror(tmp_path)
    return Site(tmp_path)
