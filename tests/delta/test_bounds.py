"""No kernel writes beyond its arrays; what filled them is still a right rdiff."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delta.pairs import noise
from puavo_repository.compiled import Numbers
from puavo_repository.delta.anchor_engine import EFFORTS
from puavo_repository.delta.anchors import threshold
from puavo_repository.delta.comparing import WINDOW
from puavo_repository.delta.dense import REGION, SLOTS, match_dense
from puavo_repository.delta.machine import buffer
from puavo_repository.delta.sparse import HEAD

Found = tuple[bytes, bytes, Numbers, list["Canaries"]]
_CANARY = -7


class Canaries:
    """Rows for copies, and rows behind them that nobody may write."""

    def __init__(self, rows: int, behind: int) -> None:
        self._all = np.full((rows + behind, 3), _CANARY, np.int64)
        self.rows = self._all[:rows]
        self._behind = self._all[rows:]

    @property
    def overwritten(self) -> int:
        return int((self._behind != _CANARY).any(axis=1).sum())


def with_every_nth_byte_flipped(data: bytes, step: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    changed[::step] ^= 0x55
    return changed.tobytes()


@pytest.fixture(params=[20, 58, 200])
def found(tmp_path: Path, request: pytest.FixtureRequest) -> Found:
    """Have the dense level fill rows that end within a gap, with it, or with what follows it."""
    source = noise(1, 1 << 17)
    target = with_every_nth_byte_flipped(source, request.param)
    (tmp_path / "source").write_bytes(source)
    data = buffer(HEAD + len(target))
    data[HEAD : HEAD + len(target)] = np.frombuffer(target, np.uint8)
    step = request.param
    sparse = np.array([(i, i, step - 1) for i in range(1, len(target) - step, 10 * step)])
    scratch = np.empty(SLOTS, np.uint64), buffer(HEAD + REGION), buffer(WINDOW)
    limit = threshold(EFFORTS["small"].dense)
    made = []
    for rows in range(len(sparse), len(sparse) + 30):
        made.append(Canaries(rows, len(target) // 16))
        with (tmp_path / "source").open("rb") as stream:
            basis = stream.fileno(), len(source), data, len(target)
            match_dense(*basis, sparse, limit, *scratch, made[-1].rows)
    return source, target, sparse, made


def test_the_dense_level_stops_where_its_rows_end(found: Found) -> None:
    _, _, _, made = found
    assert [canaries.overwritten for canaries in made] == [0] * len(made)


def test_rows_that_are_full_hold_right_copies_and_all_of_the_sparse_level(found: Found) -> None:
    source, target, sparse, made = found
    for canaries in made:
        done = 0
        for position, place, length in canaries.rows:
            assert done <= position
            assert target[position : position + length] == source[place : place + length]
            done = position + length
        assert {tuple(row) for row in sparse} <= {tuple(row) for row in canaries.rows}
