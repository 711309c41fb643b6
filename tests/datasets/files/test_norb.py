"""NORB matrices, written by other code than the reader."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from containers import norb_matrix
from vitkit.config import UserError
from vitkit.datasets.files.norb import read_header, read_matrix


def test_norb_matrices_plain_and_packed(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    pairs = draws.integers(0, 256, (5, 2, 4, 3), np.uint8)
    facts = draws.integers(-9, 9, (5,), np.int32)
    for name, values in (("dat", pairs), ("cat", facts)):
        (tmp_path / f"{name}.mat").write_bytes(norb_matrix(values))
        (tmp_path / f"{name}.mat.gz").write_bytes(gzip.compress(norb_matrix(values)))
        for suffix in (".mat", ".mat.gz"):
            assert (read_matrix(tmp_path / (name + suffix)) == values).all()
    assert read_header(tmp_path / "cat.mat").offset == 20  # three sizes are stored of one dimension
    assert (read_matrix(tmp_path / "dat.mat.gz", first_of_pairs=True) == pairs[:, 0]).all()
    (tmp_path / "cut.mat").write_bytes(norb_matrix(pairs)[:-1])
    with pytest.raises(UserError, match="is of 143 bytes and says that it has 144"):
        read_header(tmp_path / "cut.mat")
    (tmp_path / "cut.mat.gz").write_bytes(gzip.compress(norb_matrix(pairs)[:-1]))
    with pytest.raises(UserError, match="ends inside entry 4 of 5"):
        read_matrix(tmp_path / "cut.mat.gz")
    (tmp_path / "no.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(
        UserError, match="is no NORB matrix: it begins with 0x4C54414D, expected 0x1E3D4C55 or 0x1E3D4C54"
    ):
        read_header(tmp_path / "no.mat")
