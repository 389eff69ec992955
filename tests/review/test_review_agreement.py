"""Agreement of two readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from histo.errors import ReviewError
from histo.review.actions import DeleteCells, SetClass, Sign
from histo.review.agreement import AGREEMENT_FILE, readers_agreement
from histo.review.comparing import cohen_kappa, density_agreement
from histo.review.server import Desk
from histo.review.slide import Who


def test_kappa_of_a_published_table() -> None:
    """Fleiss 1981, Statistical Methods for Rates and Proportions, table 13.1: kappa 0.68 of 100 subjects."""
    table = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    a, b = (np.repeat(np.indices((3, 3))[axis].ravel(), table.ravel()) for axis in (0, 1))
    kappa = cohen_kappa(a.tolist(), b.tolist(), "subjects")
    assert kappa.value == pytest.approx(0.676, abs=5e-4)


def test_kappa_without_variation_is_not_assessable() -> None:
    assert cohen_kappa(["desert"] * 4, ["desert"] * 4, "phenotypes").value is None
    assert cohen_kappa([], [], "phenotypes").value is None
    assert cohen_kappa([1, 2], [2, 1], "cells").value == -1


def test_ratio_and_limits_are_those_of_the_logarithms() -> None:
    first = np.array([10.0, 100.0, 1000.0, 300.0])
    found = density_agreement("density", first, 2 * first, 0.0)
    assert found.ratio.value == pytest.approx(2)
    assert (found.ratio.low, found.ratio.high) == pytest.approx((2, 2))
    # Lin 1989: 2 s_xy / (s_x2 + s_y2 + (m_x - m_y)2).
    variance, mean = first.var(), first.mean()
    assert found.concordance.value == pytest.approx(4 * variance / (5 * variance + mean**2))
    assert density_agreement("density", [1.0], [1.0], 1.0).ratio.value is None


def test_readers_who_signed_blinded_are_compared(results: Path) -> None:
    with pytest.raises(ReviewError, match="no slide was signed by two"):
        readers_agreement(results)
    for reader, n in (("Dr A", 0), ("Dr B", 5)):
        desk = Desk(results, Who(reader, alone=True))
        (case,) = (case for case in desk.cases.values() if case.error is None)
        slide = desk.slide(case.key)
        cd8 = np.flatnonzero(slide.cells.is_cd8 & slide.cells.in_tissue)
        if n:
            ids = slide.cells.cell_id[cd8[: 2 * n]].tolist()
            slide.act(DeleteCells(cells=tuple(ids[:n])))
            slide.act(SetClass(cells=tuple(ids[n:]), cell_class="other nucleus"))
        slide.act(Sign(name=reader, verdict="accepted"))
    (pair,) = readers_agreement(results)
    assert pair.readers == ("Dr A", "Dr B")
    assert pair.n_cells == len(slide.cells)
    assert pair.kappa_cells.value is not None
    assert 0.8 < pair.kappa_cells.value < 1
    # One slide says nothing of limits of agreement.
    assert pair.densities["cd8_density_per_mm2"].ratio.value is None
    assert json.loads((results / AGREEMENT_FILE).read_text())[0]["readers"] == ["Dr A", "Dr B"]
