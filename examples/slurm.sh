#!/usr/bin/env bash
# The chain on a Slurm cluster: one process a GPU, on as many machines as you ask for. A job that is stopped (time limit,
# pre-emption, a machine that dies) goes on where it was when it is submitted or requeued again.
#
#     sbatch --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 examples/slurm.sh PHOTOS LABELS OUT
#
# --batch-size counts for one process: 8 processes with --batch-size 1 train as one with --batch-size 8 would.
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@60
set -euo pipefail
photos=${1:?usage: sbatch [OPTIONS] examples/slurm.sh PHOTOS LABELS OUT}
labels=${2:?}
out=${3:?}
IFS=' ' read -ra more <<< "${STCL_TRAIN:-}" # for both trainings: STCL_TRAIN="--iterations 2000" sbatch ...

# Where the processes meet: on the first machine, at a port of this job's own.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# Several processes end with 0 also where photos were skipped, a single one with 3; srun gives the highest of all codes.
together() { # trains as one: when a process fails, all end
    srun --kill-on-bad-exit=1 stcl "$@" --resume || [ $? = 3 ]
}
divided() { # each does its share of the photos
    srun --kill-on-bad-exit=0 stcl "$@" --resume || [ $? = 3 ]
}

together train "$photos" --labels "$labels" -o "$out/run" "${more[@]}"
divided cam "$photos" --labels "$labels" -m "$out/run" -o "$out/cams"
divided refine "$out/cams" --images "$photos" -o "$out/masks"
together segtrain "$photos" --masks "$out/masks" --init "$out/run" -o "$out/seg" "${more[@]}"
divided predict "$photos" -m "$out/seg" -o "$out/predictions"
