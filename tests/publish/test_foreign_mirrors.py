"""A mirror that somebody else described: adopted, whatever its metadata says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puavo_repository.errors import StorageRefusedError
from support.foreign import NAMES, changed_bytes, changed_json, examples
from support.repository import AMXA, V1, V2, Repository, name, public

SERIES = f"{AMXA}-amd64.json"


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, dict[str, bytes]]:
    repository = Repository(tmp_path_factory.mktemp("adopted") / "repository")
    for version in (V1, V2):
        repository.add(name(version))
    assert repository.prepare().ok
    return repository, public(repository.mirror)


def described(file: str) -> dict[str, object]:
    entry = {"filename": file, "size": 1, "sha256": "a" * 64, "sha512": "b" * 128}
    return {"x": {"images": [{**entry, "diffs": [entry]}]}}


@examples(0.3)
@given(data=st.data())
def test_any_metadata_is_made_right(
    adopted: tuple[Repository, dict[str, bytes]], data: st.DataObject
) -> None:
    repository, wanted = adopted
    outside = {path: path.read_bytes() for path in repository.images.iterdir()}
    document = json.loads(wanted[f"meta/{SERIES}"])
    other = described(data.draw(st.sampled_from(NAMES)))
    for file, content in {
        f"meta/{SERIES}": data.draw(changed_json(document)),
        "meta/other.json": data.draw(changed_json(other)),
        "CKSUMS": data.draw(changed_bytes(wanted["CKSUMS"])),
    }.items():
        Path(repository.mirror, file).write_bytes(content)
    try:
        # It may tell of images that nobody has, and that they go is meant.
        report = repository.prepare(allow_mass_delete=True)
    except StorageRefusedError as refused:
        Path(refused.subject).unlink()  # no mirror's: it could be somebody's
        report = repository.prepare(allow_mass_delete=True)
    assert report.ok
    assert public(repository.mirror) == wanted
    assert {path: path.read_bytes() for path in repository.images.iterdir()} == outside
