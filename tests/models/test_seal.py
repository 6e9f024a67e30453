import io
import zipfile
from pathlib import Path

import pytest
import torch

from src.models.seal import COMMENT_SIZE, is_damaged, seal

CONTENT = {"weights": torch.arange(100.0), "config": {"seed": 1}}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    archive = io.BytesIO()
    torch.save(CONTENT, archive)
    seal(archive)
    (tmp_path / "model.ckpt").write_bytes(archive.getvalue())
    return tmp_path / "model.ckpt"


def test_sealed_file_is_read_as_any_other(sealed: Path) -> None:
    assert not is_damaged(sealed)
    assert zipfile.is_zipfile(sealed)
    for mmap in (False, True):
        read = torch.load(sealed, weights_only=True, mmap=mmap)
        assert torch.equal(read["weights"], CONTENT["weights"])  # type: ignore[arg-type]


def test_every_changed_byte_is_noticed(sealed: Path) -> None:
    content = sealed.read_bytes()
    for position in range(0, len(content) - COMMENT_SIZE - 2, 13):
        changed = bytearray(content)
        changed[position] ^= 0x10
        sealed.write_bytes(changed)
        assert is_damaged(sealed), position


def test_file_without_a_digest_is_taken_as_it_is(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "older.ckpt")
    assert not is_damaged(tmp_path / "older.ckpt")
    (tmp_path / "short.ckpt").write_bytes(b"PK")
    assert not is_damaged(tmp_path / "short.ckpt")


def test_an_archive_is_sealed_once(sealed: Path) -> None:
    with pytest.raises(ValueError, match="comment already"):
        seal(io.BytesIO(sealed.read_bytes()))
