"""Roll back after a bad image was published: clients see an earlier generation again.

By hand only. Metadata and CKSUMS are put back, after every file that they name was found in
place; images and rdiffs stay as they are. What is taken from clients in this way is not published
again before it is gone from the local mirror, or a run of publish allows it.
"""

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from puavo_repository.errors import PublishError, SettingsError
from puavo_repository.progress import count
from puavo_repository.remote.target import without_password
from puavo_repository.rollback import rollback
from puavo_repository.web.model import DRY_RUN, GENERATIONS
from puavo_repository_airflow import summary, tasks
from puavo_repository_airflow.tasks import asked, chosen

PARAMS = {
    "dry_run": tasks.flag(
        "Only show the generations",
        "Nothing is changed. What can be rolled back to is on the run's tab **Plan and report**",
    ),
    "generation": tasks.optional(
        "integer",
        "Generation",
        "Number of the generation to roll back to, of one mirror. Default: the last one that has "
        "other metadata",
        "What",
        minimum=0,
    ),
    "series": tasks.optional(
        "array",
        "Series",
        "Only these, one a line, such as `puavo-os-amxa-bookworm-amd64`. Default: all",
        "What",
    ),
    **tasks.MIRRORS,
}


@dag(
    schedule=None,
    **tasks.common(__doc__, PARAMS, 3, timedelta(seconds=30), timedelta(hours=4)),
)
def puavo_repository_rollback() -> None:
    """Give clients an earlier generation of every mirror."""

    @task
    def mirrors() -> list[str]:
        names = tasks.remotes()
        if not names:
            no_mirror = "PUAVO_REPOSITORY_REMOTE", "no published mirror is named"
            raise SettingsError(*no_mirror, remedy="Set it, or name a mirror in the form")
        if get_current_context()["params"]["generation"] is not None and len(names) != 1:
            several = "generation", "each mirror counts its own"
            raise SettingsError(*several, remedy="Name one mirror as well")
        return names

    @task(map_index_template="{{ label }}")
    def roll_back(mirror: str) -> list[str]:
        params, address = get_current_context()["params"], without_password(mirror)
        tasks.label(address)
        with tasks.publisher(mirror) as remote:
            if asked("dry_run"):
                found = rollback.steps(remote)
                left = summary.generations(address, found)
                get_current_context()["ti"].xcom_push(GENERATIONS, left)
                first, *before = found
                return summary.short([f"{first}; clients see it", *map(str, before)])
            done = rollback.roll_back(remote, params["generation"], params["series"] or ())
        rollback.remember(chosen(images=False).mirror_dir, address, done)
        rejected = count(len(done.rejected), "file")
        return summary.short(
            [
                f"generation {done.generation}: clients see the metadata of {done.again} again",
                f"{rejected} not offered until a run of publish allows it",
                *(f"put back: {name}" for name in done.documents),
                *(f"no longer offered: {name}" for name in done.rejected),
            ]
        )

    @task(trigger_rule="all_done")
    def report(mirrors: list[str] | None) -> None:
        every = tasks.named(mirrors)
        did = [tasks.returned("roll_back", index) for index in range(len(every))]
        lines = {without_password(one): done for one, done in zip(every, did, strict=True)}
        sections = {mirror: done or ["did not roll back"] for mirror, done in lines.items()}
        good = f"{count(len(did) - did.count(None), 'mirror')} rolled back"
        summary.keep(DRY_RUN if asked("dry_run") else good, sections)
        if lost := did.count(None):
            where = f"{lost} of {len(did)} mirrors"
            raise PublishError(where, "did not roll back", remedy="See the log of their tasks")

    every = mirrors()
    roll_back.expand(mirror=every) >> report(every)


puavo_repository_rollback()
