#!/usr/bin/env bash
# Your own photos: a folder, and a CSV file `image,labels` (several labels joined by ;) or one sub-folder a class (then
# LABELS is PHOTOS again, and each photo shows one class).
#
#     examples/own_folder.sh PHOTOS LABELS [OUT]
#
# Several thousand photos deserve the defaults (ITERATIONS=20000); for a few hundred, 2,000 iterations are enough.
# Both are for a GPU; on a CPU take `stcl run` with the small network, as the README says.
set -euo pipefail
photos=${1:?usage: examples/own_folder.sh PHOTOS LABELS [OUT]}
labels=${2:?usage: examples/own_folder.sh PHOTOS LABELS [OUT]}
out=${3:-stcl-out}
iterations=${ITERATIONS:-2000}

stage() { # goes on where it stopped; exit code 3 says that some photos were skipped
    stcl "$@" --resume || [ $? = 3 ]
}

stage train "$photos" --labels "$labels" -o "$out/run" --iterations "$iterations"
stage cam "$photos" -m "$out/run" --labels "$labels" -o "$out/cams"
stage refine "$out/cams" --images "$photos" -o "$out/masks"
stage segtrain "$photos" --masks "$out/masks" --init "$out/run" -o "$out/seg" --iterations "$iterations"
stage predict "$photos" -m "$out/seg" -o "$out/predictions"
