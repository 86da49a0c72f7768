#!/bin/sh
# Train a model as the paper did (arXiv 2405.17158, 4.1): Stable Diffusion's autoencoder, frozen;
# GRM and texture classifier for 50,000 iterations, Patch-DiT with its texture encoder for 500,000;
# Adam at 5e-5, six images a device on eight devices.
#
#   scripts/train_paper.sh MODEL LSDIR DTD MEMORY DATA
#
# MODEL   model folder, made where it is missing
# LSDIR   holds train/ (84,991 images) and val/ (1,000)
# DTD     Describable Textures, images/ and labels/
# MEMORY  a folder with DIV2K, OutdoorSceneTraining and Manga109 in it
# DATA    where degraded pairs are written
#
# Every command resumes by itself: start the script again after an interruption. GPUS=1 trains on
# one device. docs/training.md lists what departs from the paper, and the option that undoes it.
set -eu
model=$1 lsdir=$2 dtd=$3 memory=$4 data=$5
run=${PATCHSCALER:-patchscaler}
launch=${LAUNCH:-torchrun --nproc-per-node ${GPUS:-8} -m patchscaler}
fixed_rate="--optimizer adam --lr 5e-5 --warmup 0 --decay 0 --batch-size 6"
set -- --shards "$data/train" --validation "$data/val"

# LR images by Real-ESRGAN's degradation alone.
shards="train shards --mix real --tile 512 --reduced 0"
$run $shards --images "$lsdir/train" --shards "$data/train" --held-out 0 --workers 8
$run $shards --images "$lsdir/val" --shards "$data/val" --held-out 1 --split validation --variants 1

# Eq. 1. The thresholds stay .95 and .75; calibration only records what confidences there are.
$launch train grm --model "$model" --preset paper "$@" --steps 50000 $fixed_rate \
    --lr-size 128 --eta auto
$run train calibrate --model "$model" --validation "$data/val" --keep-thresholds

# 3.3: the classifier on DTD, then 20,000 crops and the 2,000 farthest apart of them.
$launch train classifier --model "$model" --textures "$dtd" --dtd-split 1 --steps 50000 $fixed_rate
[ -f "$model/memory.safetensors" ] || \
    $run memory build "$memory" --model "$model" -o "$model/memory.safetensors" \
        --candidates 20000 --size 2000

# Eq. 8 on whole images: uniform times, starts from x_0 alone.
$launch train diffusion --model "$model" "$@" --steps 500000 $fixed_rate \
    --whole-images --low-times 0 --from-coarse 0
