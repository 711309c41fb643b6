"""VTAB's label functions against values worked out by hand from the definitions in task_adaptation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.datasets.clevr import clevr_count, clevr_distance
from vitkit.datasets.dmlab import dmlab_label
from vitkit.datasets.dsprites import dsprites_location, dsprites_orientation
from vitkit.datasets.kitti import kitti_distance
from vitkit.datasets.smallnorb import smallnorb_azimuth, smallnorb_elevation


@pytest.mark.parametrize(("objects", "label"), [(3, 0), (4, 1), (7, 4), (10, 7)])
def test_clevr_count(objects: int, label: int) -> None:
    assert clevr_count({"objects/size": np.zeros(objects, np.int64)}) == label


@pytest.mark.parametrize(
    ("distances", "label"),
    [
        ([7.99, 12.0], 0), ([8.0], 0), ([8.001], 1), ([8.5], 1), ([8.51, 30.0], 2), ([9.0], 2), ([9.25], 3), ([9.5], 3),
        ([9.75], 4), ([10.0], 4), ([10.5], 5), ([99.0, 50.0], 5), ([100.0], 5),
    ],
)  # fmt: skip
def test_clevr_distance(distances: list[float], label: int) -> None:
    coordinates = np.array([[480.0, 1.0, z] for z in distances], np.float32).reshape(-1)  # x and y have no say
    assert clevr_distance({"objects/pixel_coords": coordinates}) == label


def test_clevr_distance_is_of_float32_as_tfds_stores_it() -> None:
    assert clevr_distance({"objects/pixel_coords": np.array([0, 0, 8.5 + 1e-9])}) == 1


@pytest.mark.parametrize(
    ("objects", "label"),
    [
        ([(0, 7.9)], 0), ([(1, 8.0)], 0), ([(2, 8.1)], 1), ([(0, 20.0)], 1), ([(0, 20.1)], 2), ([(0, 90.0), (2, 5.0)], 0),
        ([], 3), ([(3, 2.0), (7, 1.0)], 3), ([(3, 2.0), (1, 30.0)], 2), ([(0, -3.0)], 0),
    ],
)  # fmt: skip
def test_kitti_distance(objects: list[tuple[int, float]], label: int) -> None:
    """Types 0 to 2 are car, van and truck; the location is (x, y, z), of which z counts."""
    facts = {
        "objects/type": np.array([kind for kind, _ in objects], np.int64),
        "objects/location": np.array([[1.0, 2.0, z] for _, z in objects], np.float32).reshape(-1),
    }
    assert kitti_distance(facts) == label


def test_dsprites_has_16_classes_of_32_places_and_of_40_orientations() -> None:
    places = [dsprites_location({"label_x_position": np.array([n])}) for n in range(32)]
    assert places == [n // 2 for n in range(32)]
    turns = [dsprites_orientation({"label_orientation": np.array([n])}) for n in range(40)]
    assert turns == [int(np.floor_divide(np.float32(n), np.float32(2.5))) for n in range(40)]
    assert turns[:8] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert Counter(Counter(turns).values()) == {3: 8, 2: 8}


def test_stored_labels() -> None:
    facts = {"label_azimuth": np.array([17]), "label_elevation": np.array([8]), "label": np.array([5])}
    assert (smallnorb_azimuth(facts), smallnorb_elevation(facts), dmlab_label(facts)) == (17, 8, 5)
    with pytest.raises(UserError, match="no numbers 'label' are stored; found a"):
        dmlab_label({"a": np.array([1])})
    with pytest.raises(UserError, match="'label' has 2 values; expected one"):
        dmlab_label({"label": np.array([1, 2])})
