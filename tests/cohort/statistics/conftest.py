"""Reference values of R, and the table of Kather et al. 2018."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]

HERE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def r_values() -> dict[str, dict[str, float]]:
    """Case -> quantity -> what R says (reference/make_values.R)."""
    frame = pd.read_csv(HERE / "values_r.csv", comment="#")
    return {
        str(case): dict(zip(part["quantity"], part["value"], strict=True))
        for case, part in frame.groupby("case")
    }


@pytest.fixture(scope="session")
def rank_data() -> dict[str, tuple[Array, Array]]:
    """Case -> values of the reference and of the other group."""
    frame = pd.read_csv(HERE / "ranks.csv")
    return {
        str(case): (
            part.loc[part["group"] == "reference", "value"].to_numpy(np.float64),
            part.loc[part["group"] == "other", "value"].to_numpy(np.float64),
        )
        for case, part in frame.groupby("case")
    }


@pytest.fixture(scope="session")
def kather(data_dir: Path) -> pd.DataFrame:
    """Colorectal primaries and metastases, a row per patient, marker and zone."""
    frame = pd.read_csv(data_dir / "tables" / "kather2018_topography.csv")
    frame = frame[frame["cancer"].isin(["COAD_PRI", "COAD_MET"])]
    site = frame["cancer"].map({"COAD_PRI": "primary", "COAD_MET": "metastasis"})
    # The two sites are of different patients.
    return frame.assign(site=site, patient=frame["cancer"] + " " + frame["patient"])


@pytest.fixture(scope="session")
def kather_cd8(kather: pd.DataFrame) -> dict[str, tuple[Array, Array]]:
    """Measure -> CD8 of primaries and of metastases: densities by zone, and log2 core:outer."""
    wide = kather[kather["marker"] == "CD8"].pivot(
        index=["site", "patient"], columns="zone", values="density_per_mm2"
    )
    wide["log2 core:outer"] = np.log2((wide["TU_CORE"] + 1) / (wide["MARG_500_OUT"] + 1))
    return {
        str(name): (wide.loc["primary", name].to_numpy(), wide.loc["metastasis", name].to_numpy())
        for name in wide
    }
