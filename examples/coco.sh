#!/usr/bin/env bash
# COCO 2017: image-level labels from instances_train2017.json, pseudo masks, a segmentation model, masks for val2017.
#
#     examples/coco.sh COCO [OUT]          with COCO/train2017, COCO/val2017 and COCO/annotations
#
# ToCo's schedule for COCO: 80,000 iterations of 8 photos.
set -euo pipefail
coco=${1:?usage: examples/coco.sh COCO [OUT]}
out=${2:-coco-out}
labels=$coco/annotations/instances_train2017.json

stage() { # goes on where it stopped; exit code 3 says that some photos were skipped
    stcl "$@" --resume || [ $? = 3 ]
}

stage train "$coco/train2017" --labels "$labels" -o "$out/run" \
    --iterations 80000 --batch-size 8 --beta-high 0.65 --beta-low 0.25
stage cam "$coco/train2017" --labels "$labels" -m "$out/run" -o "$out/cams"
stage refine "$out/cams" --images "$coco/train2017" -o "$out/masks"
stage segtrain "$coco/train2017" --masks "$out/masks" --init "$out/run" -o "$out/seg" --iterations 80000
stage predict "$coco/val2017" -m "$out/seg" -o "$out/predictions"
