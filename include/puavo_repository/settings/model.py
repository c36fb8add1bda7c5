"""Every setting: its type, default and bounds, and below it what it is for.

The command, the DAGs and the page read their settings by this model, so that each of them takes or
refuses the same value with the same words. The command's ``--help``, the forms of the DAGs and
``docs/settings.md`` are written from it. To add a setting, add it here, with what is said of it.
"""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from puavo_repository.delta import ENGINES
from puavo_repository.language import _, gettext
from puavo_repository.remote.pool import Bandwidth
from puavo_repository.remote.target import Target, parse_target

_CRON_NAMES = {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly"}  # Airflow's


def _folder(value: Any) -> Path:
    """Return the real path of a folder, which need not be there."""
    try:
        return Path(os.path.expanduser(str(value))).resolve()  # noqa: PTH111
    except (OSError, RuntimeError) as error:  # such as links in a circle
        raise ValueError(_("is no path: %(error)s", error=error)) from error


def _url(value: str) -> str:
    """Return an URL without a slash at its end; a host alone is meant by https."""
    url = value if "://" in value else f"https://{value}"
    if "@" in url:  # first: what follows may be a password, and ends up in any part of the URL
        raise ValueError(gettext("holds a user name or a password"))
    parts = urlsplit(url)  # it and the port raise a ValueError as well
    if parts.query or parts.fragment:
        raise ValueError(gettext("has more than a host and a path"))
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\s\"'<>]", url):
        raise ValueError(gettext("is no host"))
    _ = parts.port
    return url.rstrip("/")


def _cron(value: str) -> str:
    """Check a schedule as Airflow reads it; one that never comes is a mistake as well."""
    from croniter import croniter

    if value and value not in _CRON_NAMES:
        if len(value.split()) != 5 or not croniter.is_valid(value):
            raise ValueError(gettext("is no cron expression"))
        try:
            croniter(value, datetime.now(UTC)).get_next()
        except (ValueError, TypeError):
            raise ValueError(gettext("never comes")) from None
    return value


def _rates(value: Any) -> str:
    Bandwidth.parse(str(value))
    return str(value)


def _words(separators: str) -> BeforeValidator:
    """Return what splits a text; a sequence stays as it is."""
    return BeforeValidator(
        lambda v: re.sub(separators, " ", v).split() if isinstance(v, str) else v
    )


Folder = Annotated[Path, BeforeValidator(_folder)]
Text = Annotated[str, BeforeValidator(str)]
Url = Annotated[str, AfterValidator(_url)]
Sources = Annotated[str, Field(pattern=r"^(all|older|nearest:[0-9]{1,9}|demand)\Z")]
Engine = Annotated[str, Field(pattern=rf"^({'|'.join(ENGINES)})\Z")]
Cron = Annotated[str, AfterValidator(_cron)]
Rates = Annotated[str, BeforeValidator(_rates)]
ConnectionId = Annotated[str, Field(pattern=r"^[\w.:-]{1,250}\Z")]
Address = Annotated[str, Field(pattern=r"^[^@\s<>]+@[^@\s<>]+\Z")]
Remote = Annotated[str, Field(pattern=r"^((sftp|file)://.*|[\w.:-]{1,250})\Z")]
Log = Annotated[str, Field(pattern=r"^(sftp://[^/]+|[\w.:-]{1,250}:)?/.*[^/]\Z")]
Demand = Annotated[str, Field(pattern=r"^(|/.*[^/]|[\w.:-]{1,250})\Z")]


@dataclass(frozen=True)
class About:
    """What there is to say of a setting."""

    section: str
    text: str  # what it is for
    default: str  # empty where there is none
    expected: str  # what a usable value looks like; by default its type and bounds
    option: str  # its name among the command's options, by default its own
    unit: str = ""
    otherwise: str = ""  # what counts where nothing is set, if the default does not say it
    secret: bool = False  # whether its value is never shown
    may_be_empty: bool = False  # whether an empty value in the environment says something


def _setting(section: str, default: Any, *, ge: Any = None, le: Any = None, **about: Any) -> Any:
    """Return the field of a setting; ``about`` is of ``About``."""
    return Field(default, ge=ge, le=le, json_schema_extra={"section": section, **about})


_where, _which, _how = (partial(_setting, name) for name in ("where", "which rdiffs", "how"))
_publishing, _audit = (partial(_setting, name) for name in ("publishing", "audit"))
_when, _tell = (partial(_setting, name) for name in ("when", "notifications"))
_usage = partial(_setting, "usage")
_FOLDER, _FILE = "the path of a folder", "the path of a file"
_CRON = "five fields such as 30 1 * * *, or @daily"
_REMOTES = "sftp:// or file:// URLs, or ids of Airflow connections, spaces between"
_OS = "/puavo-os, or IMAGE_DIR/puavo-os where that is missing"
_LOGS = (
    "paths with * for rotated files: /var/log/nginx/access.log*, sftp://user@host/path*, or "
    "CONNECTION:/path* of an Airflow connection; spaces between"
)
_DEMAND = "the path of a file, or the id of an Airflow connection to puavo-rest"
_KEYS = "the SSH agent and ~/.ssh/id_*"
_RETRIES = "4, publishing 5, audit 3"


class Model(BaseModel):
    """Every setting."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, regex_engine="python-re")

    image_dir: Folder | None = _where(None, expected=_FOLDER, option="IMAGE_DIR")
    """Folder with the images"""
    mirror_dir: Folder | None = _where(
        None, expected=_FOLDER, otherwise="IMAGE_DIR/mirror", option="MIRROR_DIR"
    )
    """Folder that becomes the mirror"""
    repository: Url = _where("https://images.amxa.ch", expected="a host name, or https://host/path")
    """Host or URL that clients use; it is written into the metadata"""
    puavo_os: Folder | None = _where(None, expected=_FOLDER, otherwise=_OS)
    """Folder that holds config/images and defaults.mk"""
    no_config: bool = _where(default=False)
    """Leave the configuration files as they are"""

    targets: int = _which(3, ge=0)
    """How many of a series' last images get rdiffs to them; 0 makes none"""
    sources: Sources = _which("all", expected="all, older, nearest:N or demand")
    """From which images of the series rdiffs are made; demand: those that clients need by their
    logs, and all where nothing is known of them"""
    coverage: float = _which(0.95, unit="share", ge=0, le=1)
    """How much of what rdiffs can save those by demand are to save"""
    max_share: float = _which(0.9, unit="share", ge=0, le=10)
    """Largest rdiff worth keeping, as a share of its image; clients fetch the image instead"""
    engine: Engine = _which("anchors", expected=f"one of {', '.join(ENGINES)}")
    """What makes the rdiffs; every client can apply them all"""

    jobs: int = _how(0, ge=0, le=4096, otherwise="all cores that this process may use")
    """Cores to keep busy; 0 for all"""
    memory: int = _how(256, unit="megabytes", ge=1)
    """Memory that the index of a source image may take; larger images get a sparser one"""
    max_delete: float = _how(0.3, unit="share", ge=0, le=1)
    """How much of a mirror, here or on a remote, one run may delete"""
    allow_mass_delete: bool = _how(default=False)
    """Allow a run to delete more than max_delete"""

    remote: Annotated[tuple[Remote, ...], _words(r"\s")] = _publishing(
        (), expected=_REMOTES, option="--upload", secret=True
    )
    """Where the mirror is published"""
    bandwidth: Rates = _publishing(
        "", expected="2M, or by the hour 0 7-19=500k", otherwise="without limit"
    )
    """How much may be sent; by the hour of the day, 0 is without limit"""
    connections: int = _publishing(8, ge=1, le=64)
    """SSH connections to a server"""
    grace_days: float = _publishing(3, unit="days", ge=0, le=3650)
    """How long a file stays on a remote after no metadata names it any more"""
    generations: int = _publishing(10, ge=1, le=1000)
    """Generations of a remote to keep for a rollback"""
    replace_pause: float = _publishing(30, unit="seconds", ge=0, le=3600)
    """Time from removing a changed file from the metadata to replacing it"""
    allow_rolled_back: bool = _publishing(default=False)
    """Publish what a rollback took from clients, too"""
    allow_other_mirror: bool = _publishing(default=False)
    """Publish to a remote that holds another mirror, whose series go then"""
    ssh_key: Text = _publishing("", expected=_FILE, otherwise=_KEYS, secret=True)
    """Private key for sftp:// URLs; a connection brings its own"""
    known_hosts: Text = _publishing("", expected=_FILE, otherwise="~/.ssh/known_hosts")
    """Host keys for sftp:// URLs; a connection brings its own"""

    audit_share: float = _audit(0.1, unit="share", ge=0, le=1, option="--share")
    """How much of the remote files one audit reads in full, and how many of the rdiffs it applies
    again; another part each time, 1 for all"""
    audit_https: bool = _audit(default=True, option="--no-https")
    """Look at what clients see, at the repository's address"""
    ca_file: Text = _audit("", expected=_FILE, otherwise="the system's")
    """Certificates to trust there, of an authority of your own"""

    usage_logs: Annotated[tuple[Log, ...], _words(r"\s")] = _usage(
        (), expected=_LOGS, option="--log", secret=True
    )
    """Logs of the servers that clients fetch from: nginx, Apache or rsyncd"""
    usage_demand: Demand = _usage("", expected=_DEMAND, option="--demand")
    """Where to learn which images clients have and want: JSON or CSV, or Puavo itself"""

    schedule: Cron = _when("30 1 * * *", expected=_CRON, may_be_empty=True)
    """When the prepare DAG runs; empty for only by hand"""
    audit_schedule: Cron = _when("0 12 * * 0", expected=_CRON, may_be_empty=True)
    """When the audit DAG runs; empty for only by hand"""
    usage_schedule: Cron = _when("0 5 * * *", expected=_CRON, may_be_empty=True)
    """When the usage DAG runs; empty for only by hand"""
    retries: int | None = _when(None, ge=0, le=100, otherwise=_RETRIES)
    """How often a task is tried again"""
    deadline: float = _when(0, unit="hours", ge=0, le=8760)
    """When a run is reported as late; 0 for never"""

    notify_email: Annotated[tuple[Address, ...], _words(r"[\s,]")] = _tell(
        (), expected="addresses, spaces between"
    )
    """Who is told by e-mail"""
    notify_webhook: ConnectionId = _tell(
        "", expected="the id of an Airflow connection", secret=True
    )
    """Connection whose password is the URL of a webhook"""

    def sources_of(self, target: int, count: int) -> list[int]:
        """Return which images of ``count``, oldest first, are sources for that at ``target``."""
        if self.sources == "older":
            return list(range(target))
        if self.sources in ("all", "demand"):
            return [index for index in range(count) if index != target]
        number = int(self.sources.removeprefix("nearest:"))
        near = range(max(0, target - number), min(count, target + number + 1))
        others = sorted(near, key=lambda index: (abs(index - target), index))[1:]
        return sorted(others[:number])

    def target(self, url: str) -> Target:
        """Return the remote that an URL names."""
        return parse_target(url, key_file=self.ssh_key, known_hosts=self.known_hosts)


def about(name: str) -> About:
    """Return what there is to say of a setting, in the language that is spoken."""
    field = Model.model_fields[name]
    told = dict(cast("dict[str, Any]", field.json_schema_extra))
    default = "" if field.default in (None, "", ()) else str(field.default)
    text = " ".join((field.description or "").split())
    expected = gettext(told.get("expected", ""))
    if field.annotation is bool:
        default, expected = default.lower(), gettext("true or false")
    said = {
        "text": gettext(text),
        "default": default,
        "expected": expected or _bounds(field, **told),
        "otherwise": gettext(told.get("otherwise", "")),
    }
    return About(**{"option": f"--{name.replace('_', '-')}", **told, **said})


def _bounds(field: FieldInfo, *, unit: str = "", **_more: Any) -> str:
    kind = gettext("a number") if field.annotation is float else gettext("a whole number")
    if unit:
        kind = gettext("a share") if unit == "share" else f"{gettext(unit)}: {kind}"
    least = next((one.ge for one in field.metadata if hasattr(one, "ge")), None)
    most = next((one.le for one in field.metadata if hasattr(one, "le")), None)
    if most is None:
        return _("%(kind)s, %(least)s or more", kind=kind, least=least)
    return _("%(kind)s from %(least)s to %(most)s", kind=kind, least=least, most=most)
