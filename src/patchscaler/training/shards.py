"""Stage `shards`: degrade HR images into pairs on disk."""

import argparse

from patchscaler.devices import choose_device
from patchscaler.training.data.shards import ShardConfig, parse_mix, write_shards


def run(args: argparse.Namespace) -> None:
    config = ShardConfig(
        args.images,
        tile=args.tile,
        variants=args.variants,
        mix=parse_mix(args.mix),
        seed=args.seed,
        exclude=args.exclude,
        reduced=args.reduced,
        held_out=args.held_out,
    )
    written = write_shards(
        args.shards,
        config,
        validation=args.split == "validation",
        workers=args.workers,
        device=choose_device(args.device),
    )
    print(f"{args.shards}: {written} tiles written")
