"""Pictures a second: this process on one thread, and a Ray cluster of N workers of one thread,
started here for it.

python benchmarks/cluster_throughput.py examples/cat.jpg --workers 2 --pictures 12 --side 96
"""

import argparse
import time

import ray
import torch
from PIL import Image

from patchscaler import __version__
from patchscaler.apps.cluster import Cluster, ModelSpec
from patchscaler.dials.record import weights_id, weights_of
from patchscaler.images.planes import to_planes
from patchscaler.images.sizes import TargetSize
from patchscaler.pipeline import PatchScaler
from patchscaler.work import LocalExecutor


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--side", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    image, side = Image.open(args.image).convert("RGB"), args.side
    columns = max(1, (image.width - side) // 16)
    corners = [(16 * (n % columns), 16 * (n // columns)) for n in range(args.pictures)]
    calls = [
        ([to_planes(image.crop((x, y, x + side, y + side)))], TargetSize(scale=4.0), {})
        for x, y in corners
    ]
    model = PatchScaler.from_pretrained(device="cpu")
    here = LocalExecutor(model)
    spec = ModelSpec(
        "compact", "cpu", "auto", None, None, 1, __version__, weights_id(weights_of(model))
    )
    context = ray.init(
        num_cpus=args.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    with Cluster(context.address_info["gcs_address"], spec) as there:
        # warm both up
        list(here.map("batch", calls[:1])), list(there.map("batch", calls[: args.workers]))
        began = time.perf_counter()
        alone = list(here.map("batch", calls))
        middle = time.perf_counter()
        spread = list(there.map("batch", calls))
        end = time.perf_counter()
    ray.shutdown()
    same = all((a[0].array == b[0].array).all() for a, b in zip(alone, spread, strict=True))
    print(f"{len(calls)} pictures of {side}x{side}, one thread each")
    print(f"one process {len(calls) / (middle - began):.2f} pictures a second")
    print(
        f"{args.workers} workers {len(calls) / (end - middle):.2f}, "
        f"{(middle - began) / (end - middle):.2f} of it"
    )
    print(f"same bytes: {same}")


if __name__ == "__main__":
    main()
