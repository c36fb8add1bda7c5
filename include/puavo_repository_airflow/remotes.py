"""Remote mirrors as the tasks of a DAG run reach them: by URL or by an Airflow connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk import Connection, Param, get_current_context

from puavo_repository import settings
from puavo_repository.progress import TransferLog
from puavo_repository.stages import publish_options
from puavo_repository.stages.publisher import Publisher
from puavo_repository.storage.publisher_lock import Holder
from puavo_repository.storage.target import Target, target_of_connection
from puavo_repository_airflow.tasks import WHERE, Facts, field

PARAMS = {
    "mirrors": field(
        "array",
        "Mirrors",
        "One a line: `sftp://user@host/path`, `file:///path`, or the id of an Airflow connection. "
        "Default: `PUAVO_REPOSITORY_REMOTE`",
        WHERE,
        items={"type": "string"},
    ),
    "image_dir": field("string", "Image directory", "Default: as the mirror was prepared", WHERE),
    "mirror_dir": field("string", "Mirror directory", "Default: as the mirror was prepared", WHERE),
}


def flag(title: str, description: str, section: str) -> Param:
    """Return a check box of the form."""
    return Param(
        default=False, type="boolean", title=title, description_md=description, section=section
    )


def chosen() -> settings.Settings:
    """Return the settings of this run: the environment, what was prepared, then the params."""
    context = get_current_context()
    known: Facts = {}
    for events in (context.get("triggering_asset_events") or {}).values():
        known |= {k: v for event in events for k, v in (event.extra or {}).items()}
    given = {
        name: context["params"][name] or known.get(name) for name in ("image_dir", "mirror_dir")
    }
    return settings.load(given, images=False)


def mirrors() -> list[str]:
    """Return the remotes of this run, URLs or ids of connections.

    Raises:
        SettingsError: A setting of this installation cannot be used, whichever it is.
    """
    configured = chosen().remotes
    return list(get_current_context()["params"]["mirrors"] or configured)


def target(mirror: str, options: publish_options.Options) -> Target:
    """Return the remote that an URL or a connection id names."""
    if "://" in mirror:
        return options.target(mirror)
    found = Connection.get(mirror)
    return target_of_connection(
        mirror,
        host=found.host,
        port=found.port,
        login=found.login,
        password=found.password,
        extra=found.extra_dejson,
    )


@contextmanager
def publisher(work: Facts, share: float = 1.0) -> Iterator[Publisher]:
    """Open a remote in the name of this run; secrets are looked up here, and stay here.

    Args:
        work: Has the ``mirror``, and the ``token`` that the run's tasks share.
        share: What part of the bandwidth is this task's.
    """
    options = publish_options.load(get_current_context()["params"], share=share)
    mirror = target(work["mirror"], options)
    holder = Holder.run(work["token"])
    with Publisher(chosen().mirror_dir, mirror, options, holder, TransferLog()) as found:
        yield found
