"""Types of settings that are more than a number or a yes or no.

Each reads a text, and raises a ``ValueError`` that says what is wrong with it.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from puavo_repository.delta.engines import ENGINES
from puavo_repository.errors import SettingsError
from puavo_repository.remote.throttle import Bandwidth

_CONNECTION_ID = re.compile(r"[\w.:-]{1,250}")
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_CRON_NAMES = {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly"}  # Airflow's


def folder(value: Any) -> Path:
    """Return the real path of a folder, which need not be there."""
    try:
        return Path(os.path.expanduser(str(value))).resolve()  # noqa: PTH111
    except (OSError, RuntimeError) as error:  # such as links in a circle
        raise ValueError(f"is no path: {error}") from error


def _url(value: str) -> str:
    """Return an URL without a slash at its end; a host alone is meant by https."""
    url = value if "://" in value else f"https://{value}"
    if "@" in url:  # first: what follows may be a password, and ends up in any part of the URL
        raise ValueError("holds a user name or a password")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if parts.query or parts.fragment:
        raise ValueError("has more than a host and a path")
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\s\"'<>]", url):
        raise ValueError("is no host")
    return url.rstrip("/")


def _engine(value: str) -> str:
    if value not in ENGINES:
        raise ValueError("is no delta engine")
    return value


def _cron(value: str) -> str:
    """Check a schedule as Airflow reads it; one that never comes is a mistake as well."""
    from croniter import croniter

    if value and value not in _CRON_NAMES:
        if len(value.split()) != 5 or not croniter.is_valid(value):
            raise ValueError("is no cron expression")
        try:
            croniter(value, datetime.now(UTC)).get_next()
        except (ValueError, TypeError):
            raise ValueError("never comes") from None
    return value


def _rates(value: str) -> str:
    try:
        Bandwidth.parse(value)
    except SettingsError as error:
        raise ValueError(error.problem) from error
    return value


def _words(value: Any) -> Any:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _remotes(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        scheme, separator, _ = value.partition("://")
        if separator and scheme not in {"sftp", "file"}:
            raise ValueError("has a URL that is neither sftp:// nor file://")
        if not separator and not _CONNECTION_ID.fullmatch(value):
            raise ValueError("has a word that is neither a URL nor the id of a connection")
    return values


def _connection_id(value: str) -> str:
    if not _CONNECTION_ID.fullmatch(value):
        raise ValueError("is no id of a connection")
    return value


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ADDRESS.fullmatch(value):
            raise ValueError("has a word that is no address")
    return values


Folder = Annotated[Path, BeforeValidator(folder)]
Text = Annotated[str, BeforeValidator(str)]
Url = Annotated[str, AfterValidator(_url)]
Sources = Annotated[str, Field(pattern=r"^(all|older|nearest:[0-9]{1,9})$")]
Engine = Annotated[str, AfterValidator(_engine)]
Cron = Annotated[str, AfterValidator(_cron)]
Rates = Annotated[str, BeforeValidator(str), AfterValidator(_rates)]
Remotes = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: tuple(value.split()) if isinstance(value, str) else value),
    AfterValidator(_remotes),
]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_words), AfterValidator(_addresses)]
ConnectionId = Annotated[str, AfterValidator(_connection_id)]
