"""A real headless Chromium, and what it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

OPTIONS = (
    "--headless",
    "--no-sandbox",  # for root, as in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion",  # what moves is drawn without a graphics card
    "--window-size=1400,1300",
)
# While a page gives way to another, a look at an element of it may end as any of them: missing,
# stale, or "Node with given id does not belong to the document".
IGNORED = (WebDriverException,)
PATIENCE = 90  # seconds; this machine may be busy
# Elements that may be visible with a text in them. What the driver says of each counts, but takes
# up to half a core-second for one look at a page, and is asked for ten times a second.
CANDIDATES = r"""
const plain = (text) => text.replace(/\s+/g, " ").trim();
const wanted = plain(arguments[1]);
return [...document.querySelectorAll(arguments[0])].filter((one) =>
    [one.innerText, one.textContent].some((text) => plain(text ?? "").includes(wanted)));
"""


class Browser:
    """What the tests do with a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, css: str, text: str = "") -> WebElement:
        """Wait for a visible element that has this text in it."""

        def look(_: Any) -> WebElement | bool:
            for element in self.driver.execute_script(CANDIDATES, css, text):
                if element.is_displayed() and text in element.text:
                    assert isinstance(element, WebElement)
                    return element
            return False

        found = WebDriverWait(self.driver, PATIENCE, 0.1, ignored_exceptions=IGNORED).until(
            look, f"no {css} with {text!r} on {self.driver.current_url}"
        )
        assert isinstance(found, WebElement)
        return found

    def gone(self, css: str) -> None:
        """Wait until no such element is visible."""
        self.until(
            lambda: (
                not any(
                    element.is_displayed()
                    for element in self.driver.find_elements(By.CSS_SELECTOR, css)
                )
            )
        )

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        wait = WebDriverWait(self.driver, PATIENCE, 0.1, ignored_exceptions=IGNORED)
        wait.until(lambda _: holds())

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def wait(self, text: str) -> None:
        self.find("body", text)

    def enter_frame(self) -> None:
        """Look into the frame once its page is there: until then Airflow may draw another one."""

        def entered() -> bool:
            self.driver.switch_to.default_content()
            self.driver.switch_to.frame(self.driver.find_element(By.TAG_NAME, "iframe"))
            there = "return location.href !== 'about:blank' && document.readyState === 'complete'"
            return bool(self.driver.execute_script(there))

        self.until(entered)

    def leave_frame(self) -> None:
        self.driver.switch_to.default_content()

    def theme(self, name: str) -> None:
        """Choose light or dark, as Airflow's user menu keeps it."""
        self.driver.execute_script(f"localStorage.setItem('theme', '{name}')")

    def reader(self, languages: str, zone: str) -> None:
        """Be the browser of somebody with these languages, best first, in a time zone."""
        agent = self.driver.execute_script("return navigator.userAgent")
        override = {"userAgent": agent, "acceptLanguage": languages}
        self.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", override)
        self.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": zone})

    def colour(self, css: str, name: str) -> str:
        return self.find(css).value_of_css_property(name)

    def hosts(self) -> set[str]:
        """Return every host that was asked for anything."""
        found = set()
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                if url.scheme in {"http", "https", "ws", "wss"}:
                    found.add(url.netloc)
        return found

    def barriers(self, *rules: str) -> list[str]:
        """Return what axe-core holds against the page: by these rules, or by all that it has."""
        axe = resources.files("selenium_axe_python") / "axe-core" / "axe.min.js"
        self.driver.execute_script(axe.read_text())
        every = {"rules": {"target-size": {"enabled": True}}}  # of WCAG 2.2, which it leaves out
        only = {"runOnly": {"type": "rule", "values": list(rules)}}
        run = "axe.run(document, arguments[0]).then(arguments[1])"
        options = {"resultTypes": ["violations"], "preload": False, **(only if rules else every)}
        found = self.driver.execute_async_script(run, options)["violations"]
        return [
            f"{one['id']}: {node['target']} {node['failureSummary']}"
            for one in found
            for node in one["nodes"]
        ]

    def complaints(self) -> list[str]:
        """Return what the browser's console holds against the page."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser with a fresh profile."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f"--user-data-dir={folder}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service("/usr/bin/chromedriver", env={**os.environ, "HOME": str(folder)})
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(PATIENCE)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
