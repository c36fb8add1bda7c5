"""A step is done again where that may help, and only there."""

from __future__ import annotations

import errno
import logging
import threading
import time

import pytest

from puavo_repository import retry
from puavo_repository.errors import (
    ConnectionLostError,
    LockedError,
    RepositoryError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.retry import when_free, with_retries


class Step:
    """Fails with the given errors, one after another, then returns how often it was done."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.done = 0

    def __call__(self) -> int:
        self.done += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.done


class Clock(threading.Event):
    """Waits for nothing, and notes for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_what_may_pass_is_tried_again_later_and_later(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    step = Step(*(ConnectionLostError("host", f"lost {n}") for n in range(4)))
    with caplog.at_level(logging.WARNING):
        assert with_retries(step, stop=clock) == 5
    assert clock.waits == [2, 4, 8, 16]
    assert "host: lost 2; again in 8 s" in caplog.text


def test_the_last_attempt_raises_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 3)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    step = Step(*(ConnectionLostError("host", f"lost {n}") for n in range(9)))
    with pytest.raises(ConnectionLostError, match="lost 2"):
        with_retries(step)
    assert step.done == 3


@pytest.mark.parametrize(
    "error", [LockedError("mirror", "locked"), StorageRefusedError("f", "denied"), KeyError("x")]
)
def test_what_a_retry_does_not_cure_is_raised_at_once(error: Exception) -> None:
    step = Step(error)
    with pytest.raises(type(error)) as caught:
        with_retries(step)
    assert caught.value is error
    assert step.done == 1


def test_a_lock_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE", 0.0)
    locked = [LockedError("remote", f"taken {n}") for n in range(3)]
    assert when_free(Step(*locked), 60) == 4
    with pytest.raises(LockedError, match="taken 0"):
        when_free(Step(*locked), -1)
    with pytest.raises(StorageRefusedError):
        when_free(Step(StorageRefusedError("f", "denied")), 60)


def test_an_error_of_a_local_file_is_put_on_its_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)
    assert with_retries(Step(OSError(errno.EIO, "I/O error", "x"))) == 2
    with pytest.raises(StorageRefusedError, match="No space left"):
        with_retries(Step(OSError(errno.ENOSPC, "No space left", "x")))
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    with pytest.raises(StorageError, match="a local file"):
        with_retries(Step(OSError(errno.EIO, "I/O error")))


@pytest.mark.parametrize("before", [True, False])
def test_a_stop_ends_the_waiting(
    before: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 60.0)
    stop = threading.Event()
    if before:
        stop.set()
    else:
        threading.Timer(0.05, stop.set).start()
    step, begun = Step(ConnectionLostError("host", "lost")), time.monotonic()
    with pytest.raises(RepositoryError, match="lost"):
        with_retries(step, stop=stop)
    assert (step.done, time.monotonic() - begun < 5) == (1, True)
    assert ("again in" in caplog.text) != before
