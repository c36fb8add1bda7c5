"""Kernels: functions that Numba compiles, that run without the GIL and are kept between runs.

Numba keeps the code of a function until the file that it is in changes, but builds in what the
function uses from other files. So the folder for kept code carries a digest of all sources of
this package that hold kernels: after any change all are compiled anew. It is also a digest of the
machine: several may share one file system.

Where two processes compile at once, Numba may mix up code that one of them compiled for some kinds
of arguments and the other for others. So each kernel is called with one kind only.

Numba does not wait for the disk. Code of which a power cut or a full disk left a part is compiled
anew.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding as llvm
from numba.core import codegen
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[Any]]
Word = Any  # in compiled code: an unsigned number of 64 bits

_PACKAGE = Path(__file__).parent


def _key() -> str:
    """Return a digest of what compiled code depends on: all sources of kernels, and the machine."""
    features = codegen.get_host_cpu_features()  # type: ignore[no-untyped-call]
    machine = repr((llvm.get_host_cpu_name(), features, numba.__version__)).encode()
    sources = sorted([*_PACKAGE.glob("delta/*.py"), *_PACKAGE.glob("formats/*.py")])
    contents = b"".join(source.read_bytes() for source in sources)
    return hashlib.sha256(machine + contents).hexdigest()[:16]


def _bases() -> list[Path]:
    """Return the folders that may hold compiled code, the preferred one first."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    bases = [chosen, str(_PACKAGE / "__pycache__"), f"{user}/puavo-repository"]
    return [Path(base) for base in bases if base and Path(base).is_absolute()]


def _cache_folder() -> str:
    """Return the folder where compiled code is kept, empty if none is writable by us alone."""
    for folder in (base / f"kernels-{_key()}" for base in _bases()):
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(0o755, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            found = folder.stat()  # what is kept there is run: nobody else may write it
            if found.st_uid in {0, os.geteuid()} and not found.st_mode & 0o022:
                return str(folder)
    return ""


_CACHE = _cache_folder()
numba.config.CACHE_DIR = _CACHE  # type: ignore[attr-defined]


class _Kept:
    """Kept code of a function, which is compiled anew where it cannot be read or written."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._files: Any = FunctionCache(function)  # type: ignore[no-untyped-call]

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what is kept, or None."""
        try:
            return self._files.load_overload(signature, context)
        except Exception:  # noqa: BLE001 - a damaged file raises all kinds
            with suppress(OSError):
                self._files.flush()
            return None

    def save_overload(self, signature: Any, made: Any) -> None:
        """Keep what was compiled, if that can be."""
        with suppress(Exception):
            self._files.save_overload(signature, made)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function; where no folder is writable, anew in each process."""
    made: Any = numba.njit(nogil=True)(function)
    if _CACHE:
        made._cache = _Kept(function)
    return made


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a helper into each kernel that uses it."""
    return numba.njit(nogil=True)(function)


def callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that a C library calls; it has the ``address``, and must not raise."""

    def make(function: Callable[..., Any]) -> Any:
        made: Any = CFunc(function, (signature.args, signature.return_type), {}, {})
        if _CACHE:
            made._cache = _Kept(function)
        made.compile()
        return made

    return make


def llvm_intrinsic(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function of kernels from one that emits LLVM code for its one or two arguments."""

    def make(emit: Callable[..., Any]) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        if len(signature.args) == 1:
            return intrinsic(lambda _context, _one: (signature, generate))
        return intrinsic(lambda _context, _one, _other: (signature, generate))

    return make


_allocate: Callable[..., Numbers] = np.zeros  # the tests put pages around that nobody may touch


def array(shape: int | tuple[int, ...], kind: Any) -> Numbers:
    """Return an array that kernels write to; each of them comes from here."""
    return _allocate(shape, kind)
