from __future__ import annotations

import numpy as np
import pytest
import torch

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, UNKNOWN
from histo.training.targets import (
    MAY_BE_ANY,
    NO_CENTRE,
    UNANNOTATED,
    PackedTargets,
    discs_from_points,
    known_classes,
    known_from_outlines,
    pack_targets,
    peak_mass,
    unpack_targets,
)


def _field() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((32, 40), np.int32)
    labels[4:11, 5:14] = 1  # centroid row 7, column 9
    labels[11:21, 20:29] = 2  # touches nothing; centroid row 15.5, column 24
    return labels, np.array([True, False])


def test_classes_and_offsets_lead_to_the_centroid() -> None:
    labels, is_cd8 = _field()
    packed = pack_targets(labels, is_cd8, 0.5)
    assert packed.classes[7, 9] == 1
    assert packed.classes[15, 24] == 2
    assert packed.classes[0, 0] == 0
    targets = unpack_targets(PackedTargets(*(part[None] for part in packed[:3])))
    rows, columns = np.indices(labels.shape)
    for number, (row, column) in ((1, (7, 9)), (2, (15.5, 24))):
        inside = torch.from_numpy(labels == number)
        dx, dy = targets.offsets[0][:, inside]
        torch.testing.assert_close(
            dx, torch.tensor((column - columns[labels == number]) * 0.5).float(), atol=0.051, rtol=0
        )
        torch.testing.assert_close(
            dy, torch.tensor((row - rows[labels == number]) * 0.5).float(), atol=0.051, rtol=0
        )
    assert not targets.offsets[0][:, torch.from_numpy(labels == 0)].any()
    assert bool((targets.inside[0, 0] == torch.from_numpy(labels > 0)).all())


def test_a_centre_has_one_peak_at_half_resolution() -> None:
    labels, is_cd8 = _field()
    centre = pack_targets(labels, is_cd8, 0.5).centre
    assert centre.shape == (16, 20)
    assert centre[3, 4] == centre.max() == 255
    assert (centre > 200).sum() < 12


def test_a_field_without_cells_has_no_targets() -> None:
    packed = pack_targets(np.zeros((16, 16), np.int32), np.zeros(0, bool), 0.5)
    assert not packed.classes.any()
    assert not packed.offsets.any()
    assert not packed.centre.any()


def test_true_centroids_may_be_given() -> None:
    labels, is_cd8 = _field()
    given = pack_targets(labels, is_cd8, 0.5, centroids_px=np.array([[9.0, 7.0], [24.0, 15.5]]))
    own = pack_targets(labels, is_cd8, 0.5)
    for one, other in zip(given[:3], own[:3], strict=True):
        assert one is not None
        np.testing.assert_array_equal(one, other)
    # Half a cell: its centre is where the whole one's was, beyond the edge.
    half = pack_targets(labels[:, 9:33], is_cd8, 0.5, centroids_px=np.array([[0.0, 7.0], [15.0, 15.5]]))
    np.testing.assert_array_equal(half.offsets, own.offsets[:, :, 9:33])


@pytest.mark.parametrize("background_known", [True, False])
def test_outlines_say_which_class_a_pixel_may_be(background_known: bool) -> None:
    labels, _ = _field()
    labels[0:4, 30:36] = 3
    classes = np.array([CD8_POSITIVE, UNKNOWN, OTHER_NUCLEUS], np.uint8)
    known = known_from_outlines(labels, classes, background_known=background_known)
    assert set(known[labels == 1]) == {2}
    assert set(known[labels == 2]) == {2 | 4}
    # Cut by the edge: its class is known, its centre is not.
    assert set(known[labels == 3]) == {4 | NO_CENTRE}
    assert set(known[labels == 0]) == {1 if background_known else 1 | 4 | UNANNOTATED}
    classes_known = known_classes(known)
    assert set(classes_known[labels == 1]) == {1}
    assert set(classes_known[labels == 2]) == {0}
    assert set(classes_known[labels == 3]) == {2}
    packed = pack_targets(labels, classes == CD8_POSITIVE, 0.5)._replace(classes=classes_known, known=known)
    targets = unpack_targets(PackedTargets(*(np.asarray(part)[None] for part in packed)))
    np.testing.assert_array_equal(targets.inside[0, 0].numpy(), (labels == 1) | (labels == 2))


@pytest.mark.parametrize("background_known", [True, False])
def test_points_leave_open_how_far_a_cell_reaches(background_known: bool) -> None:
    points = np.array([[20.0, 20.0], [60.0, 20.0]])
    classes = np.array([CD8_POSITIVE, UNKNOWN], np.uint8)
    labels, known = discs_from_points(points, classes, (40, 80), 0.5, background_known=background_known)
    beyond = 1 if background_known else 1 | 4 | UNANNOTATED
    assert labels[20, 20] == 1
    assert labels[20, 60] == 2
    assert known[20, 20] == 2
    assert known[20, 60] == 2 | 4
    # 4 um away: this cell, or none.
    assert labels[20, 28] == 0
    assert known[20, 28] == beyond | 2
    assert known[20, 68] == beyond | 2 | 4
    assert known[20, 40] == beyond
    # A disc of 2.5 um: about pi 2.5^2 um2, in pixels of 0.25 um2.
    assert abs((labels == 1).sum() - np.pi * 6.25 / 0.25) < 12


def test_no_points_are_knowledge_too() -> None:
    labels, known = discs_from_points(
        np.zeros((0, 2)), np.zeros(0, np.uint8), (8, 8), 0.5, background_known=True
    )
    assert not labels.any()
    assert set(known.ravel()) == {1}
    assert set(known_classes(np.array([0, MAY_BE_ANY, 1, 2, 4 | NO_CENTRE], np.uint8))) == {0, 1, 2}


def test_the_mass_of_a_peak_is_about_that_of_its_gaussian() -> None:
    # 2 pi sigma^2 in pixels of 1 um2; the largest of four pixels lies above the mean.
    assert 2 * np.pi * 1.2**2 < peak_mass(0.5) < 1.6 * 2 * np.pi * 1.2**2
    assert peak_mass(0.25) > 3 * peak_mass(0.5)
