"""Every setting: its type, default, bounds and unit, and what it is for.

The command, the DAGs and the page read their settings by this model, so that each of them takes or
refuses the same value with the same words. The command's ``--help``, the forms of the DAGs and
``docs/settings.md`` are written from it. To add a setting, add a line here.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from puavo_repository.delta.engines import ENGINES
from puavo_repository.settings.about import About, about_field, setting
from puavo_repository.settings.values import (
    Addresses,
    ConnectionId,
    Cron,
    Engine,
    Folder,
    Rates,
    Remotes,
    Sources,
    Text,
    Url,
)

ENVIRONMENT = "PUAVO_REPOSITORY_"
WHERE, WHAT, HOW = "where", "which rdiffs", "how"
PUBLISH, AUDIT, WHEN, TELL = "publishing", "audit", "when", "notifications"
_PATH = "the path of a folder"
_FILE = "the path of a file"
_CRON = "five fields such as 30 1 * * *, or @daily"


class Model(BaseModel):
    """Every setting."""

    model_config = ConfigDict(frozen=True)

    image_dir: Folder | None = setting(
        WHERE, "Folder with the images", default=None, expected=_PATH, option="IMAGE_DIR"
    )
    mirror_dir: Folder | None = setting(
        WHERE,
        "Folder that becomes the mirror",
        default=None,
        expected=_PATH,
        otherwise="IMAGE_DIR/mirror",
        option="MIRROR_DIR",
    )
    repository: Url = setting(
        WHERE,
        "Host or URL that clients use; it is written into the metadata",
        default="https://images.amxa.ch",
        expected="a host name, or https://host/path",
    )
    puavo_os: Folder | None = setting(
        WHERE,
        "Folder that holds config/images and defaults.mk",
        default=None,
        expected=_PATH,
        otherwise="/puavo-os, or IMAGE_DIR/puavo-os where that is missing",
    )
    no_config: bool = setting(WHERE, "Leave the configuration files as they are", default=False)

    targets: int = setting(
        WHAT,
        "How many of a series' last images get rdiffs to them; 0 makes none",
        default=3,
        least=0,
    )
    sources: Sources = setting(
        WHAT,
        "From which images of the series rdiffs are made",
        default="all",
        expected="all, older or nearest:N",
    )
    max_share: float = setting(
        WHAT,
        "Largest rdiff worth keeping, as a share of its image; clients fetch the image instead",
        default=0.9,
        unit="share",
        least=0,
        most=10,
    )
    engine: Engine = setting(
        WHAT,
        "What makes the rdiffs; every client can apply them all",
        default="anchors",
        expected=f"one of {', '.join(ENGINES)}",
    )

    jobs: int = setting(
        HOW, "Cores to keep busy; 0 for all", default=0, least=0, most=4096, otherwise="all cores"
    )
    memory: int = setting(
        HOW,
        "Memory that the index of a source image may take; larger images get a sparser one",
        default=256,
        unit="megabytes",
        least=1,
    )
    max_delete: float = setting(
        HOW,
        "How much of a mirror, here or on a remote, one run may delete",
        default=0.3,
        unit="share",
        least=0,
        most=1,
    )
    allow_mass_delete: bool = setting(
        HOW, "Allow a run to delete more than max_delete", default=False
    )

    remote: Remotes = setting(
        PUBLISH,
        "Where the mirror is published",
        default=(),
        expected="sftp:// or file:// URLs, or ids of Airflow connections, spaces between",
        option="--upload",
        secret=True,
    )
    bandwidth: Rates = setting(
        PUBLISH,
        "How much may be sent; by the hour of the day, 0 is without limit",
        default="",
        unit="bytes a second",
        expected="2M, or by the hour 0 7-19=500k",
        otherwise="without limit",
    )
    connections: int = setting(PUBLISH, "SSH connections to a server", default=6, least=1, most=64)
    grace_days: float = setting(
        PUBLISH,
        "How long a file stays on a remote after no metadata names it any more",
        default=3,
        unit="days",
        least=0,
        most=3650,
    )
    generations: int = setting(
        PUBLISH, "Generations of a remote to keep for a rollback", default=10, least=1, most=1000
    )
    replace_pause: float = setting(
        PUBLISH,
        "Time from removing a changed file from the metadata to replacing it",
        default=30,
        unit="seconds",
        least=0,
        most=3600,
    )
    allow_rolled_back: bool = setting(
        PUBLISH, "Publish what a rollback took from clients, too", default=False
    )
    allow_other_mirror: bool = setting(
        PUBLISH,
        "Publish to a remote that holds another mirror, whose series go then",
        default=False,
    )
    ssh_key: Text = setting(
        PUBLISH,
        "Private key for sftp:// URLs; a connection brings its own",
        default="",
        expected=_FILE,
        otherwise="the SSH agent and ~/.ssh/id_*",
        secret=True,
    )
    known_hosts: Text = setting(
        PUBLISH,
        "Host keys for sftp:// URLs; a connection brings its own",
        default="",
        expected=_FILE,
        otherwise="~/.ssh/known_hosts",
    )

    audit_share: float = setting(
        AUDIT,
        "How much of the remote files one audit reads in full, and how many of the rdiffs it "
        "applies again; another part each time, 1 for all",
        default=0.1,
        unit="share",
        least=0,
        most=1,
        option="--share",
    )
    audit_https: bool = setting(
        AUDIT,
        "Look at what clients see, at the repository's address",
        default=True,
        option="--no-https",
    )
    ca_file: Text = setting(
        AUDIT,
        "Certificates to trust there, of an authority of your own",
        default="",
        expected=_FILE,
        otherwise="the system's",
    )

    schedule: Cron = setting(
        WHEN,
        "When the prepare DAG runs; empty for only by hand",
        default="30 1 * * *",
        expected=_CRON,
        may_be_empty=True,
    )
    audit_schedule: Cron = setting(
        WHEN,
        "When the audit DAG runs; empty for only by hand",
        default="0 12 * * 0",
        expected=_CRON,
        may_be_empty=True,
    )
    retries: int | None = setting(
        WHEN,
        "How often a task is tried again",
        default=None,
        least=0,
        most=100,
        otherwise="3, publishing 5, audit 2",
    )
    deadline: float = setting(
        WHEN,
        "When a run is reported as late; 0 for never",
        default=0,
        unit="hours",
        least=0,
        most=8760,
    )

    notify_email: Addresses = setting(
        TELL, "Who is told by e-mail", default=(), expected="addresses, spaces between"
    )
    notify_webhook: ConnectionId = setting(
        TELL,
        "Connection whose password is the URL of a webhook",
        default="",
        expected="the id of an Airflow connection",
        secret=True,
    )


def about(name: str) -> About:
    """Return what there is to say of a setting."""
    return about_field(Model.model_fields[name])


def default(name: str) -> Any:
    """Return the value of a setting that nobody gave."""
    return Model.model_fields[name].default


def default_text(name: str) -> str:
    """Return the default of a setting for people; empty where there is none."""
    value = default(name)
    if otherwise := about(name).otherwise:
        return otherwise
    if value is None or value in ("", ()):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
