"""Explanations of rdiffs, worked out when somebody asks: one at a time, the last ones kept."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock

from puavo_repository import language
from puavo_repository.errors import (
    PermanentError,
    RepositoryError,
    SettingsError,
    StorageRefusedError,
)
from puavo_repository.formats.names import is_rdiff_name
from puavo_repository.language import gettext, gettext_noop
from puavo_repository.mirror.files import Identity
from puavo_repository.mirror.mirror import Mirror
from puavo_repository.web import page

_KEPT = 16
_BUSY = gettext_noop(
    "Another rdiff is being explained, which takes some seconds. This page asks again by itself"
)

Answer = tuple[int, str]
"""The status, and the page."""


class Explainer:
    """Explains the rdiffs of one mirror; may be asked from any thread.

    Who asks while another explanation is worked out is told so: clicks cannot pile up work.
    """

    def __init__(self, mirror: Callable[[], Path]) -> None:
        self._mirror = mirror
        self._busy = Lock()
        self._kept: dict[tuple[str, Identity, str], Answer] = {}

    def answer(self, name: str) -> Answer:
        """Return the page of an rdiff, or why there is none."""
        # NumPy, which each process of Airflow would load with the plugin.
        from puavo_repository.fleet.explain import explain, images_of

        try:
            rdiff = Mirror(self._mirror()).rdiffs / name
            identity = Identity.at(rdiff) if is_rdiff_name(name) else None
            if identity is None:
                problem = gettext("There is no such rdiff in the mirror")
                return 404, page.render_explanation(name, problem)
            key = name, identity, language.current()
            if (known := self._kept.get(key)) is not None:
                return known
            if not self._busy.acquire(blocking=False):
                return 503, page.render_explanation(name, gettext(_BUSY))
            try:
                found = 200, page.render_explanation(name, explain(rdiff, *images_of(rdiff)))
            except (SettingsError, StorageRefusedError) as error:  # no image there, or no right
                return 409, page.render_explanation(name, str(error))
            except PermanentError as error:
                found = 409, page.render_explanation(name, str(error))
            finally:
                self._busy.release()
        except RepositoryError as error:  # may pass by itself
            return 503, page.render_explanation(name, str(error))
        self._kept = dict([*self._kept.items(), (key, found)][-_KEPT:])
        return found
