"""Remote mirrors as the tasks of a DAG run reach them: by URL or by an Airflow connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk import Connection, get_current_context

from puavo_repository.errors import PublishError
from puavo_repository.progress import LoggedWatcher
from puavo_repository.publish.publisher import Options, Publisher
from puavo_repository.remote.target import Target, target_of_connection
from puavo_repository_airflow.tasks import chosen, fields, optional

PARAMS = {
    "mirrors": optional(
        "array",
        "Mirrors",
        "One a line: `sftp://user@host/path`, `file:///path`, or the id of an Airflow connection. "
        "Default: `PUAVO_REPOSITORY_REMOTE`",
        "where",
    ),
    **fields("image_dir", "mirror_dir"),
}


def mirrors() -> list[str]:
    """Return the remotes of this run, URLs or ids of connections.

    Raises:
        SettingsError: A setting of this installation cannot be used, whichever it is.
    """
    configured = chosen(images=False).remote
    return list(get_current_context()["params"]["mirrors"] or configured)


def named(mirrors: list[str] | None) -> list[str]:
    """Return what the task ``mirrors`` gave to a report, which runs also where that failed."""
    if mirrors is None:
        raise PublishError("mirrors", "this task failed, so nothing was done: its log says why")
    return mirrors


def target(mirror: str, options: Options) -> Target:
    """Return the remote that an URL or a connection id names."""
    if "://" in mirror:
        return options.target(mirror)
    found = Connection.get(mirror)
    names = "host", "port", "login", "password"
    there = {name: getattr(found, name) for name in names}
    return target_of_connection(mirror, **there, extra=found.extra_dejson)


@contextmanager
def publisher(mirror: str) -> Iterator[Publisher]:
    """Open a remote by its URL or connection id; secrets are looked up here, and stay here."""
    params, here = get_current_context()["params"], chosen(images=False)
    options = Options.load(params)
    # Whoever names the mirror with this very run means it.
    meant = options.allow_other_mirror or bool(params["mirrors"])
    how = options.model_copy(update={"allow_other_mirror": meant, "own_folders": (here.image_dir,)})
    with Publisher(here.mirror_dir, target(mirror, options), how, LoggedWatcher()) as found:
        yield found
