from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

from histo.cells.outlines import outlines


def _connected(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.asarray(label(mask, connectivity=1))


def test_one_pixel_is_a_diamond_in_its_place() -> None:
    labels = np.zeros((4, 5), np.int32)
    labels[2, 3] = 1
    (polygon,) = outlines(labels, mpp=0.5, origin_px=(100, 200))
    assert polygon.equals(shapely.Polygon([(51.75, 101), (52, 101.25), (51.75, 101.5), (51.5, 101.25)]))


def test_a_square_loses_its_corners_only() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[2:6, 3:7] = 1
    (polygon,) = outlines(labels, mpp=1.0, tolerance_um=0.1)
    assert polygon.bounds == (3, 2, 7, 6)
    assert polygon.area == pytest.approx(16 - 0.5)
    # 4 sides and 4 cut corners.
    assert shapely.get_num_coordinates(polygon) == 9


@settings(max_examples=80)
@given(arrays(np.bool_, (9, 11), elements=st.booleans()))
def test_any_shape_gives_valid_polygons_of_its_area(mask: NDArray[np.bool_]) -> None:
    labels = _connected(mask)
    polygons = outlines(labels, mpp=0.5)
    assert len(polygons) == labels.max()
    assert shapely.is_valid(polygons).all()
    # A gap that is open across a corner is no hole.
    corners = np.ones((3, 3))
    filled = [int(ndimage.binary_fill_holes(labels == i + 1, corners).sum()) for i in range(len(polygons))]
    np.testing.assert_allclose(shapely.area(polygons), (np.array(filled) - 0.5) * 0.25)


@settings(max_examples=40)
@given(arrays(np.bool_, (12, 12), elements=st.booleans()))
def test_simplified_outlines_stay_valid_and_near(mask: NDArray[np.bool_]) -> None:
    labels = _connected(mask)
    exact, simple = outlines(labels, mpp=0.5), outlines(labels, mpp=0.5, tolerance_um=0.25)
    assert shapely.is_valid(simple).all()
    assert not shapely.is_empty(simple).any()
    assert (shapely.get_type_id(simple) == shapely.GeometryType.POLYGON).all()
    distance = shapely.hausdorff_distance(shapely.get_exterior_ring(exact), shapely.get_exterior_ring(simple))
    assert (distance <= 0.5 + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.bool_, (14, 14), elements=st.booleans()),
    st.sampled_from([0.25, 0.4397, 0.5]),
    st.sampled_from([0.1, 0.25, 0.5, 1.0]),
)
def test_outlines_are_simplified_as_geos_does(mask: NDArray[np.bool_], mpp: float, tolerance: float) -> None:
    labels = _connected(mask)
    ours = outlines(labels, mpp=mpp, origin_px=(4001, 70003), tolerance_um=tolerance)
    exact = outlines(labels, mpp=mpp, origin_px=(4001, 70003))
    theirs = shapely.simplify(exact, tolerance, preserve_topology=False)
    good = shapely.is_valid(theirs) & (shapely.get_type_id(theirs) == 3) & ~shapely.is_empty(theirs)
    assert shapely.to_wkb(ours).tolist() == shapely.to_wkb(np.where(good, theirs, exact)).tolist()


def test_exteriors_run_as_geojson_wants_them(draw_discs: Callable[..., NDArray[np.int32]]) -> None:
    polygons = outlines(draw_discs(128, 40), mpp=0.5)
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


def test_neighbours_do_not_overlap() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[4:12, 4:9], labels[4:12, 9:15], labels[12:16, 6:12] = 1, 2, 3
    polygons = outlines(labels, mpp=0.5)
    overlap = [shapely.intersection(polygons[i], polygons[j]).area for i, j in ((0, 1), (0, 2), (1, 2))]
    assert max(overlap) == pytest.approx(0)


def test_an_outline_does_not_depend_on_the_window(draw_discs: Callable[..., NDArray[np.int32]]) -> None:
    labels = draw_discs(128, 1, seed=3)
    rows, columns = np.nonzero(labels)
    top, left = rows.min() - 1, columns.min() - 5
    window = labels[top:, left:]
    whole = outlines(labels, mpp=0.5, tolerance_um=0.25)
    part = outlines(window, mpp=0.5, origin_px=(int(left), int(top)), tolerance_um=0.25)
    assert shapely.to_wkb(whole).tolist() == shapely.to_wkb(part).tolist()


def test_no_label_no_outline() -> None:
    assert len(outlines(np.zeros((5, 5), np.int32), mpp=0.5)) == 0


def test_a_missing_number_is_an_error() -> None:
    labels = np.zeros((6, 6), np.int32)
    labels[1, 1], labels[4, 4] = 1, 3
    with pytest.raises(ValueError, match="without a gap"):
        outlines(labels, mpp=0.5)
