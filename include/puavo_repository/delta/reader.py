"""How librsync looks at the source of an rdiff when it applies one: ``rs_copy_cb``, compiled.

Its own callback seeks and reads for every COPY.
"""

import ctypes

import numpy as np
from numba import types

from puavo_repository.compiled import Word, array, callback
from puavo_repository.delta.image import Image

_DONE, _INPUT_ENDED = 0, 103  # rs_result


class Source:
    """An open source, as librsync is given it; it has to live as long as the job."""

    def __init__(self, image: Image) -> None:
        self._state = array(2, np.int64)
        self._state[:] = image.address, image.size
        self.callback = ctypes.c_void_p(look_at_source.address)
        self.argument = ctypes.c_void_p(self._state.ctypes.data)


_numbers = types.CPointer(types.int64)  # type: ignore[no-untyped-call]


@callback(types.int32(_numbers, types.int64, _numbers, _numbers))
def look_at_source(state: Word, position: int, length: Word, place: Word) -> int:
    """Say in ``place`` where some bytes of the source are; ``state`` is its address and size."""
    if not 0 <= position < state[1]:
        return _INPUT_ENDED
    length[0] = min(length[0], state[1] - position)
    place[0] = state[0] + position
    return _DONE
