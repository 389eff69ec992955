"""The shipped network through TIAToolbox's segmentor, in an environment that has it; see `peers.py`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiatoolbox
import torch
from peers_network import RgbNetwork
from tiatoolbox.models.architecture.utils import argmax_last_axis
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC


class Model(ModelABC):
    """The network as the toolbox wants it: probabilities of the middle of each patch."""

    def __init__(self, network: RgbNetwork, margin_px: int) -> None:
        super().__init__()
        self.network = network
        self.margin_px = margin_px

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)

    @staticmethod
    def infer_batch(model: Model, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        with torch.inference_mode():
            found = model(batch_data.to(device).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        m = model.margin_px
        return found[:, m : found.shape[1] - m, m : found.shape[2] - m].numpy()

    @staticmethod
    def postproc(image: np.ndarray) -> np.ndarray:
        return argmax_last_axis(image=image)


def main() -> None:
    start_core_s = time.process_time()
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    begun = time.perf_counter()
    margin_px = job["margin_px"]
    inner = job["tile_px"] - 2 * margin_px
    resolution = [{"units": "mpp", "resolution": job["mpp"]}]
    engine = SemanticSegmentor(
        model=Model(RgbNetwork(job["network"], job["precision"]), margin_px),
        batch_size=job["batch_size"],
        num_workers=job["workers"],
        verbose=False,
    )
    out = engine.run(
        [Path(job["slide"])],
        masks=[np.load(job["mask"]).astype(np.uint8)],
        ioconfig=IOSegmentorConfig(
            input_resolutions=resolution,
            output_resolutions=resolution,
            patch_input_shape=(job["tile_px"],) * 2,
            patch_output_shape=(inner, inner),
            stride_shape=(inner, inner),
        ),
        patch_mode=False,
        save_dir=Path(job["out"]),
        output_type="zarr",
        return_probabilities=job["maps"],
        auto_get_mask=False,
        # It does not find the pixel size of a plain tiled TIFF.
        wsireader_kwargs={"mpp": (job["slide_mpp"],) * 2},
    )
    result = {
        "work_s": time.perf_counter() - begun,
        "start_core_s": start_core_s,
        "path": str(Path(next(iter(out.values()))) / ("probabilities" if job["maps"] else "predictions")),
        "versions": f"tiatoolbox {tiatoolbox.__version__}, torch {torch.__version__}",
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
