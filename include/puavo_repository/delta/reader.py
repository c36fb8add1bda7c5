"""How librsync reads the source of an rdiff when it applies one: ``rs_copy_cb`` in compiled code.

Its own callback seeks and reads for every COPY. Most copies are short and lie near each other, so
here a window of the source stays in memory, and only long ones are read straight to where they go.
"""

import ctypes

import numpy as np
from numba import types

from puavo_repository.compiled import Word, array, callback
from puavo_repository.delta.machine import buffer, pread

_WINDOW = 1 << 16  # bytes of the source that are kept
_LONG = 1 << 14  # bytes; as many or more are not taken from the window unless they are there
_ALIGNED = 1 << 12  # bytes; a window begins at a multiple
_DONE, _IO_ERROR, _INPUT_ENDED = 0, 100, 103  # rs_result


class Source:
    """An open source, as librsync is given it; it has to live as long as the job."""

    def __init__(self, descriptor: int) -> None:
        self._window = buffer(_WINDOW)
        self._state = array(4, np.int64)
        self._state[:2] = descriptor, self._window.ctypes.data
        self.callback = ctypes.c_void_p(read_source.address)
        self.argument = ctypes.c_void_p(self._state.ctypes.data)


_numbers = types.CPointer(types.int64)  # type: ignore[no-untyped-call]


@callback(types.int32(_numbers, types.int64, _numbers, _numbers))
def read_source(state: Word, position: int, length: Word, place: Word) -> int:
    """Give some bytes of the source: at ``place``, or elsewhere and then ``place`` says where.

    ``state`` is the descriptor, the address of the window, and where it starts and stops.
    """
    wanted = length[0]
    if not state[2] <= position <= position + wanted <= state[3]:
        if wanted >= _LONG:
            count = pread(state[0], place[0], wanted, position)
            length[0] = count
            return _DONE if count > 0 else _IO_ERROR if count < 0 else _INPUT_ENDED
        start = position - position % _ALIGNED
        count = pread(state[0], state[1], _WINDOW, start)
        if count < 0:
            return _IO_ERROR
        state[2], state[3] = start, start + count
        if position >= state[3]:
            return _INPUT_ENDED
        length[0] = min(wanted, state[3] - position)
    place[0] = state[1] + position - state[2]
    return _DONE
