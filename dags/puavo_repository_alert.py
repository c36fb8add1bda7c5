"""Test whether messages arrive: this run fails on purpose.

By hand only. Its message takes the very way of a real one, and says that it is a test. The page
tells whether it went out.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from puavo_repository.errors import PermanentError, SettingsError
from puavo_repository_airflow import notify, tasks


@dag(
    schedule=None,
    **tasks.common(__doc__, {}, 0, timedelta(seconds=30), timedelta(minutes=5)),
)
def puavo_repository_alert() -> None:
    """Fail."""

    @task
    def alert() -> None:
        if not notify.ways():
            unset = "PUAVO_REPOSITORY_NOTIFY_EMAIL", "nobody is told when something fails"
            remedy = "Set it, or PUAVO_REPOSITORY_NOTIFY_WEBHOOK, and restart Airflow"
            raise SettingsError(*unset, remedy=remedy)
        test = "this failed on purpose, to send this message"
        raise PermanentError("This is a test", test, remedy="There is nothing to do")

    alert()


puavo_repository_alert()
