#!/usr/bin/env bash
# One machine with 4 V100 and 16 vCPUs (n1-highmem-16).   usage: one-vm.sh SHARDS OUT [settings of train]
set -euo pipefail
shards=$1 out=$2
shift 2
exec torchrun --standalone --nproc-per-node 4 --numa-binding node \
  -m photochrom train --config l2 --data.train "$shards" --out "$out" --train.precision fp16 "$@"
