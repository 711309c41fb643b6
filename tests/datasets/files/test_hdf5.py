"""HDF5 files, read cell by cell."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.datasets.files.hdf5 import HDF5Image, check_images, read_array


def test_hdf5_images_are_read_when_needed_and_travel(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pixels, chunks=(1, 8, 6, 3), compression="gzip")
        file.create_dataset("y", data=np.array([[[[1]]], [[[0]]], [[[1]]]], np.uint8))
    assert check_images(path, "x", (8, 6, 3)) == 3
    assert read_array(path, "y").reshape(-1).tolist() == [1, 0, 1]
    image = pickle.loads(pickle.dumps(HDF5Image(str(path), "x", 2)))
    assert (np.asarray(open_image(image)) == pixels[2]).all()
    with pytest.raises(OSError, match="image 3 of 'x'"):
        HDF5Image(str(path), "x", 3).read()
    with pytest.raises(UserError, match=r"'x' is uint8 \(3, 8, 6, 3\); expected uint8 \(images, 96, 96, 3\)"):
        check_images(path, "x", (96, 96, 3))
    with pytest.raises(UserError, match="no data set 'imgs'; it holds x, y"):
        read_array(path, "imgs")
    (tmp_path / "no.h5").write_bytes(b"none")
    with pytest.raises(UserError, match="cannot be read as an HDF5 file"):
        read_array(tmp_path / "no.h5", "x")
