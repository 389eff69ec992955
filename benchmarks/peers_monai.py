"""The shipped network through MONAI's sliding window, in an environment that has it; see `peers.py`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cucim
import numpy as np
import zarr


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    # In a process that has loaded torch, cuCIM 26.10 spins for ever as it opens its first slide.
    cucim.CuImage(job["slide"])
    import monai
    import torch
    from monai.inferers import PatchInferer, WSISlidingWindowSplitter
    from monai.inferers.merger import AvgMerger
    from peers_network import RgbNetwork
    from torch.nn import functional as F

    begun, start_core_s = time.perf_counter(), time.process_time()
    network = RgbNetwork(job["network"], job["precision"])
    mask = np.load(job["mask"])
    # The reader knows stored levels: patches of the finest, averaged to the working pixel size.
    step, patch = job["downsample"], job["tile_px"] * job["downsample"]
    per_mask_px = job["mask_mpp"] / job["slide_mpp"]

    def on_tissue(_: Any, location: tuple[int, int]) -> bool:
        low = [max(0, int(place / per_mask_px)) for place in location]
        high = [int(np.ceil((place + patch) / per_mask_px)) for place in location]
        return bool(mask[low[0] : high[0], low[1] : high[1]].any())

    inferer = PatchInferer(
        splitter=WSISlidingWindowSplitter(
            patch_size=patch,
            overlap=2 * job["margin_px"] * step,
            filter_fn=on_tissue,
            reader=job["reader"],
            level=0,
        ),
        merger_cls=AvgMerger,
        batch_size=job["batch_size"],
        preprocessing=lambda pixels: F.avg_pool2d(pixels.float(), step),
        buffer_size=job["buffer_size"],
    )
    with torch.inference_mode():
        # (3, rows, columns); not a number where no patch was.
        found = inferer(job["slide"], network)[0]
        values = found if job["maps"] else found.max(0).indices.to(torch.uint8)
    path = Path(job["out"]) / "found.zarr"
    side = job["tile_px"]
    array = zarr.create_array(
        str(path), shape=values.shape, chunks=(*values.shape[:-2], side, side), dtype=values.numpy().dtype
    )
    array[...] = values.numpy()
    result = {
        "work_s": time.perf_counter() - begun,
        "start_core_s": start_core_s,
        "path": str(path),
        "versions": f"monai {monai.__version__}, torch {torch.__version__}, cucim {cucim.__version__}",
    }
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
