"""Whose language the page is in: chosen on it, in Airflow, or in the browser; and whose time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from puavo_repository.web.app import COOKIES
from support.browser import Browser
from web.mirrors import make_mirror
from web.site import Site

SAID = {
    "en": "Everything is up to date",
    "de": "Alles ist aktuell",
    "fi": "Kaikki on ajan tasalla",
    "fr": "Tout est à jour",
}


@pytest.fixture
def reader(chromium: Browser) -> Iterator[Browser]:
    """Return a browser, which is again that of nobody afterwards."""
    yield chromium
    chromium.driver.execute_script("localStorage.removeItem('i18nextLng')")
    chromium.driver.delete_all_cookies()
    chromium.reader("en-US", "UTC")


def test_the_page_follows_its_reader(reader: Browser, tmp_path: Path) -> None:
    make_mirror(tmp_path)
    with (site := Site(tmp_path)).up():

        def shows(language: str) -> None:
            reader.wait(SAID[language])
            assert reader.find("html").get_attribute("lang") == language

        def choose_in_airflow(language: str) -> None:
            """Do it in another tab, as Airflow's own page does around this one."""
            reader.driver.execute_script(
                "const frame = document.body.appendChild(document.createElement('iframe'));"
                f"frame.contentWindow.localStorage.setItem('i18nextLng', '{language}')"
            )

        reader.reader("fi-FI,fi,en", "Europe/Helsinki")
        reader.driver.get(site.url)
        shows("fi")
        choose_in_airflow("en")  # it has no Finnish, and so it fell back
        reader.until(lambda: bool(reader.driver.get_cookie(COOKIES[1])))
        shows("fi")
        choose_in_airflow("de-DE")
        shows("de")
        reader.driver.get(site.url)
        shows("de")
        reader.find("#language option[value=fr]").click()
        shows("fr")
        choose_in_airflow("en")
        reader.driver.get(site.url)
        shows("fr")
        (cookie,) = (one for one in reader.driver.get_cookies() if one["name"] == COOKIES[0])
        assert cookie["sameSite"] == "Lax"
        assert cookie["path"] == "/puavo-repository/"
        reader.find("#language option[value='']").click()
        shows("fi")
        assert reader.complaints() == []
