"""Every setting: its type, default, bounds and unit, and what it is for.

The command, the DAGs and the page read their settings by this model, so that each of them takes or
refuses the same value with the same words. The types of the values are in ``values``, where they
come from is in ``sources``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from puavo_repository.delta.engines import ENGINES
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


@dataclass(frozen=True)
class About:
    """What there is to say of a setting beside its type and default.

    Attributes:
        section: What it belongs to.
        text: What it is for.
        unit: Of its value.
        expected: What a usable value looks like; by default its type and bounds.
        secret: Whether its value is never shown.
        may_be_empty: Whether an empty value in the environment says something.
    """

    section: str
    text: str
    unit: str = ""
    expected: str = ""
    secret: bool = False
    may_be_empty: bool = False


class Model(BaseSettings):
    """Every setting."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT,
        extra="ignore",
        frozen=True,
        validate_default=False,
    )

    image_dir: Annotated[Folder | None, About(WHERE, "Folder with the images", "", _PATH)] = None
    mirror_dir: Annotated[
        Folder | None, About(WHERE, "Folder that becomes the mirror", "", _PATH)
    ] = None
    repository: Annotated[
        Url,
        About(WHERE, "Host or URL that clients use", "", "a host name, or https://host/path"),
    ] = ""
    puavo_os: Annotated[
        Folder | None,
        About(WHERE, "Folder that holds config/images and defaults.mk", "", _PATH),
    ] = None
    no_config: Annotated[bool, About(WHERE, "Leave the configuration as it is")] = False

    targets: Annotated[
        int, Ge(0), About(WHAT, "How many of a series' last images get rdiffs to them")
    ] = 3
    sources: Annotated[
        Sources,
        About(WHAT, "From which images rdiffs are made", "", "all, older or nearest:N"),
    ] = "all"
    max_share: Annotated[
        float, Ge(0), Le(10), About(WHAT, "Largest rdiff worth keeping, of its image", "share")
    ] = 0.9
    engine: Annotated[
        Engine, About(WHAT, "What makes the rdiffs", "", f"one of {', '.join(ENGINES)}")
    ] = "anchors"

    jobs: Annotated[int, Ge(0), Le(4096), About(HOW, "Cores to keep busy; 0 for all")] = 0
    memory: Annotated[
        int, Ge(1), About(HOW, "Memory that the index of a source image may take", "megabytes")
    ] = 256
    max_delete: Annotated[
        float, Ge(0), Le(1), About(HOW, "How much of a mirror one run may delete", "share")
    ] = 0.3
    allow_mass_delete: Annotated[bool, About(HOW, "Whether a run may delete more")] = False

    remote: Annotated[
        Remotes,
        About(
            PUBLISH,
            "Where the mirror is published",
            expected="sftp:// or file:// URLs, or ids of Airflow connections, spaces between",
            secret=True,
        ),
    ] = ()
    bandwidth: Annotated[
        Rates,
        About(PUBLISH, "How much may be sent", "bytes a second", "2M, or by the hour 0 7-19=500k"),
    ] = ""
    connections: Annotated[int, Ge(1), Le(64), About(PUBLISH, "SSH connections to a server")] = 6
    grace_days: Annotated[
        float, Ge(0), Le(3650), About(PUBLISH, "How long a file stays unnamed", "days")
    ] = 3
    generations: Annotated[
        int, Ge(1), Le(1000), About(PUBLISH, "Generations to keep for a rollback")
    ] = 10
    replace_pause: Annotated[
        float,
        Ge(0),
        Le(3600),
        About(PUBLISH, "Time from withdrawing a changed file to replacing it", "seconds"),
    ] = 30
    allow_rolled_back: Annotated[
        bool, About(PUBLISH, "Whether to publish what a rollback took from clients")
    ] = False
    allow_other_mirror: Annotated[
        bool, About(PUBLISH, "Whether to publish to a remote that holds another mirror")
    ] = False
    ssh_key: Annotated[
        Text, About(PUBLISH, "Private key for sftp:// URLs", "", _FILE, secret=True)
    ] = ""
    known_hosts: Annotated[Text, About(PUBLISH, "Host keys for sftp:// URLs", "", _FILE)] = ""

    audit_share: Annotated[
        float, Ge(0), Le(1), About(AUDIT, "How much of a mirror one audit reads", "share")
    ] = 0.1
    audit_https: Annotated[bool, About(AUDIT, "Whether to look at what clients see")] = True
    ca_file: Annotated[Text, About(AUDIT, "Certificates to trust there", "", _FILE)] = ""

    schedule: Annotated[
        Cron, About(WHEN, "When the prepare DAG runs", "", _CRON, may_be_empty=True)
    ] = "30 1 * * *"
    audit_schedule: Annotated[
        Cron, About(WHEN, "When the audit DAG runs", "", _CRON, may_be_empty=True)
    ] = "0 12 * * 0"
    retries: Annotated[
        int | None, Ge(0), Le(100), About(WHEN, "How often a task is tried again")
    ] = None
    deadline: Annotated[
        float, Ge(0), Le(8760), About(WHEN, "When a run is reported as late; 0: never", "hours")
    ] = 0

    notify_email: Annotated[
        Addresses, About(TELL, "Who is told by e-mail", "", "addresses, spaces between")
    ] = ()
    notify_webhook: Annotated[
        ConnectionId,
        About(
            TELL,
            "Connection whose password is the URL of a webhook",
            expected="the id of an Airflow connection",
            secret=True,
        ),
    ] = ""


def about(name: str) -> About:
    """Return what there is to say of a setting."""
    field = Model.model_fields[name]
    found = next(one for one in field.metadata if isinstance(one, About))
    return found if found.expected else replace(found, expected=_expected(field, found.unit))


def default(name: str) -> Any:
    """Return the value of a setting that nobody gave."""
    return Model.model_fields[name].default


def _expected(field: FieldInfo, unit: str) -> str:
    if field.annotation is bool:
        return "true or false"
    kind = "a number" if field.annotation is float else "a whole number"
    least = next(one.ge for one in field.metadata if isinstance(one, Ge))
    most = next((one.le for one in field.metadata if isinstance(one, Le)), None)
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    if unit == "share":
        return f"a share{bounds}"
    return f"{unit}: {kind}{bounds}" if unit else f"{kind}{bounds}"
