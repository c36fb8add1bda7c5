"""Which images clients have and which they want: from a file, or from Puavo itself.

puavo-rest tells both of each device (``GET /v3/devices``), as the school server's client asks it.
Only the two names and whether the device boots from the network are asked for, no name of a device.
A file has two image names and a number of clients, as JSON or CSV.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puavo_repository.errors import (
    ConnectionLostError,
    LoginError,
    PermanentError,
    SettingsError,
    as_storage_error,
)
from puavo_repository.formats.names import ImageName
from puavo_repository.settings import trusting

Demand = Counter[tuple[str, str]]
"""Number of clients by the image that they have and the one that they want, maybe the same."""

COUNTS = 30  # days for which it counts, where nothing newer is told

_ATTRIBUTES = "current_image,preferred_image,object_classes"
_NETBOOT = "puavoNetbootDevice"  # has no image of its own
_EXPECTED = 'lines such as OLD.img,NEW.img,12 or JSON such as [["OLD.img", "NEW.img", 12]]'
_TIMEOUT = 120.0  # seconds: it looks at every device


def from_file(path: Path) -> Demand:
    """Read a file of demand.

    Raises:
        PermanentError: It is none; nothing of it counts.
    """
    with as_storage_error(path):
        content = path.read_bytes()
    found: Demand = Counter()
    try:
        text = content.decode("utf-8-sig")
        for source, target, clients in _rows(text):
            both, count = (_image(source), _image(target)), str(clients).strip()
            if not all(both) or not 0 <= int(count) < 1 << 31:
                raise ValueError(f"{source}, {target}, {clients}")  # noqa: TRY301
            found[both] += int(count)
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        remedy = f"Correct it; until then what was known before counts, for {COUNTS} days"
        problem = "this is no file of demand"
        shown = str(error)[:200]
        raise PermanentError(
            path, problem, expected=_EXPECTED, found=shown, remedy=remedy
        ) from error
    return found


def _rows(text: str) -> Iterable[Any]:
    if not text.lstrip().startswith(("[", "{")):
        found = [row for row in csv.reader(text.splitlines()) if any(row)]
        titled = found and not any(map(_image, found[0]))
        return found[1:] if titled else found
    rows: list[Any] = json.loads(text)
    return rows


def _image(name: Any) -> str:
    """Return an image's file name by that or by its id, as Puavo has it; empty where it is none."""
    text = str(name).strip().removesuffix(".img") + ".img"
    return text if ImageName.parse(text) else ""


def from_puavo(url: str, login: str, password: str, ca_file: str = "") -> Demand:
    """Ask puavo-rest for the images of all devices."""
    import httpx  # slow to load, and a DAG is read again and again

    context = trusting(ca_file)
    try:
        with httpx.Client(verify=context, timeout=_TIMEOUT, auth=(login, password)) as client:
            answer = client.get(f"{url}/v3/devices", params={"attributes": _ATTRIBUTES})
    except httpx.InvalidURL as error:
        remedy = "Correct the host of the connection"
        raise SettingsError(url, f"is no address: {error}", remedy=remedy) from error
    except (httpx.HTTPError, OSError) as error:
        raise ConnectionLostError(url, str(error) or type(error).__name__) from error
    if answer.status_code in (401, 403):
        remedy = "Correct login and password of the connection"
        raise LoginError(url, "puavo-rest refuses this login", remedy=remedy)
    if answer.status_code >= 500:
        raise ConnectionLostError(url, f"puavo-rest answers {answer.status_code}")
    try:
        pairs = [_pair(device) for device in answer.raise_for_status().json()]
    except (ValueError, AttributeError, TypeError, httpx.HTTPStatusError) as error:
        raise SettingsError(
            url,
            "this does not answer like puavo-rest",
            expected="a list of devices",
            found=f"{answer.status_code} {answer.text[:100]}",
            remedy="The connection's host is that of puavo-rest, such as https://api.puavo.org",
        ) from error
    return Counter(pair for pair in pairs if all(pair))


def _pair(device: Any) -> tuple[str, str]:
    if _NETBOOT in (device.get("object_classes") or ()):
        return "", ""
    current = _image(device.get("current_image"))
    return current, _image(device.get("preferred_image")) or current
