"""One tree of errors, in two branches: what a retry may cure, and what it cannot.

An error carries its parts (what it is about, what is wrong, what was expected and found, the
way out) and renders itself, so that the command, the DAGs and the web page say the same thing.
The DAGs' retry policy looks at the branch alone.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RepositoryError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 1

    def __init__(
        self,
        subject: str | Path,  # the file, series or server that the error is about
        problem: str,  # what is wrong, in a few words
        *,
        expected: str = "",
        found: str = "",
        remedy: str = "",  # what the operator can do, as a sentence
    ) -> None:
        super().__init__(subject, problem)
        self.subject = printable(subject)
        self.problem = printable(problem)
        self.expected = printable(expected)
        self.found = printable(found)
        self.remedy = printable(remedy)

    def __str__(self) -> str:
        seen = [f"expected {self.expected}"] if self.expected else []
        seen += [f"found {self.found}"] if self.found else []
        text = f"{self.subject}: {self.problem}" + (f" ({', '.join(seen)})" if seen else "")
        return f"{text}. {self.remedy}" if self.remedy else text


class TransientError(RepositoryError):
    """May pass by itself: a retry makes sense."""


class PermanentError(RepositoryError):
    """Stays until someone does something: a retry does not help."""


class SettingsError(PermanentError):
    """A setting, an option or the set-up of this machine is unusable."""

    exit_status = 2


class ConfigError(SettingsError):
    """A configuration file of the repository cannot be used; nothing was changed."""


class ImageError(PermanentError):
    """One image cannot be used; the others can."""


class ImageChangingError(TransientError):
    """An image changed while it was read: it is still being copied, or was replaced."""


class DeltaError(PermanentError):
    """An rdiff could not be made or read, or what does that died by its own fault."""


class ProofError(DeltaError):
    """An rdiff, applied to its source, does not give its target."""


class LockedError(TransientError):
    """Another run is writing the mirror."""


class StorageError(TransientError):
    """Reading or writing failed in a way that may pass."""


class StorageRefusedError(PermanentError):
    """Reading or writing failed in a way that stays: permission, read-only or full disk."""


class ConnectionLostError(TransientError):
    """The connection to a server could not be made, broke, or went silent."""


class StoppedError(PermanentError):
    """The run is being ended from outside; what was done is kept."""


class HostKeyError(PermanentError):
    """A server's host key is unknown or not the one that it should be."""


class LoginError(PermanentError):
    """A server does not accept the key or password."""


class PublishError(PermanentError):
    """A file or a step of publishing cannot be done as it stands."""


class MassDeleteError(PublishError):
    """A run would remove more of a mirror, here or on a remote, than was agreed on."""


_REMEDIES = {
    errno.ENOSPC: "Free some space on that file system and run again; what is done is kept",
    errno.EDQUOT: "Free some of the quota and run again; what is done is kept",
    errno.EROFS: "Mount that file system writable, or choose another folder",
    errno.EACCES: "Give the user that runs this access to it, or choose another folder",
    errno.EPERM: "Give the user that runs this access to it, or choose another folder",
    errno.ELOOP: "A link leads back to itself: correct it and run again",
    errno.ENAMETOOLONG: "Choose a shorter name or folder",
    errno.EISDIR: "A folder has the name of a file: move it away and run again",
    errno.ENOTEMPTY: "A folder has the name of a file: move it away and run again",
    errno.ENOTDIR: "A file has the name of a folder: move it away and run again",
    errno.EFBIG: "Use a file system that can hold files of this size",
}


def storage_error(path: str | Path, error: OSError) -> StorageError | StorageRefusedError:
    """Put an ``OSError`` on its branch of the tree, with the way out."""
    remedy = _REMEDIES.get(error.errno or 0, "")
    kind = StorageRefusedError if remedy else StorageError
    text = error.strerror or str(error)
    return kind(path, text, remedy=remedy or "Run again when the cause is gone")


@contextmanager
def as_storage_error(subject: str | Path) -> Iterator[None]:
    """Put an ``OSError`` that gets out of a block on its branch, by the file that it names.

    ``subject`` is for one that names none.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(error.filename or subject, error) from error


def printable(text: str | Path) -> str:
    r"""Return a text, such as a name or what a server said, that any terminal and JSON can carry.

    A file name is bytes; those that are not UTF-8 reach Python as lone surrogates, which
    cannot be written anywhere. They are shown as ``\xNN``, and so are control characters,
    which a terminal would obey.
    """
    shown = (c if c.isprintable() else repr(c)[1:-1].replace("\\udc", "\\x") for c in str(text))
    return "".join(shown)
