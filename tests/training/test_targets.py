from __future__ import annotations

import numpy as np
import torch

from histo.training.targets import PackedTargets, pack_targets, unpack_targets


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
    targets = unpack_targets(PackedTargets(*(part[None] for part in packed)))
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
