#!/usr/bin/env bash
# PASCAL VOC 2012: image-level labels from Annotations, pseudo masks, a segmentation model, mIoU on val.
#
#     examples/voc.sh VOCdevkit/VOC2012 [OUT]
#
# Published methods train on the 10,582 photos of train_aug: give its list with LIST=.../train_aug.txt and its labels with
# LABELS=... where you have them (Annotations know only VOC's own photos).
set -euo pipefail
voc=${1:?usage: examples/voc.sh VOCdevkit/VOC2012 [OUT]}
out=${2:-voc-out}
sets=$voc/ImageSets/Segmentation
list=${LIST:-$sets/train.txt}
labels=${LABELS:-$voc/Annotations}

mkdir -p "$out"
printf '%s\n' background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person \
    pottedplant sheep sofa train tvmonitor > "$out/classes.txt"

stage() { # goes on where it stopped; exit code 3 says that some photos were skipped
    stcl "$@" --resume || [ $? = 3 ]
}

stage train "$voc/JPEGImages" --labels "$labels" --classes "$out/classes.txt" --list "$list" -o "$out/run"
stage cam "$voc/JPEGImages" --labels "$labels" --list "$list" -m "$out/run" -o "$out/cams"
stage refine "$out/cams" --images "$voc/JPEGImages" -o "$out/masks"
stage segtrain "$voc/JPEGImages" --masks "$out/masks" --init "$out/run" -o "$out/seg"
stage predict "$voc/JPEGImages" --list "$sets/val.txt" -m "$out/seg" -o "$out/predictions"
stcl eval "$out/predictions" --truth "$voc/SegmentationClass" --list "$sets/val.txt"
