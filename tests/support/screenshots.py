"""The pictures of the page in docs/screenshots, made of sample data: ``make screenshots``."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from puavo_repository.web import page
from support.browser import Browser, browser
from support.repository import ROOT
from web import samples
from web.site import Site

PICTURES = {  # theme, width and height in pixels, of the page's top
    "light": ("light", 1280, 1420),
    "dark": ("dark", 1280, 1420),
    "phone": ("light", 390, 1420),
}


def main() -> None:
    """Make them all."""
    folder = ROOT / "docs" / "screenshots"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, browser(Path(name, "profile")) as chromium:
        root = Path(name, "mirror")
        site = Site(root)
        html = page.render(samples.busy(root)).replace(str(root), "/srv/mirror")
        site.shown = html.replace("2020-", "2026-")
        with site.up():
            chromium.driver.get(site.url)
            for picture, (theme, width, height) in PICTURES.items():
                chromium.theme(theme)
                (folder / f"{picture}.png").write_bytes(taken(chromium, site.url, width, height))


def taken(chromium: Browser, url: str, width: int, height: int) -> bytes:
    """Return a picture of the top of a page."""
    command = chromium.driver.execute_cdp_cmd
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    command("Emulation.setDeviceMetricsOverride", size)
    chromium.driver.get(url)
    chromium.find("#tools")
    chromium.driver.execute_async_script("setTimeout(arguments[0], 500)")
    return base64.b64decode(command("Page.captureScreenshot", {"format": "png"})["data"])


if __name__ == "__main__":
    main()
