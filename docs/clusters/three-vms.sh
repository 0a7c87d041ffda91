#!/usr/bin/env bash
# Three such machines, the set-up of the original project: run on each, with its number, 0, 1 or 2.
#   usage: three-vms.sh NUMBER ADDRESS_OF_MACHINE_0 SHARDS OUT [settings of train]
# SHARDS is a folder that each machine has, under the same name, or an address on an object store. OUT is a folder that
# all share, or each has: only machine 0 writes to it, and reads it when the run resumes.
set -euo pipefail
number=$1 address=$2 shards=$3 out=$4
shift 4
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-^lo,docker0}" # V100 machines have no InfiniBand: TCP, by the right card
exec torchrun --nnodes 3 --node-rank "$number" --nproc-per-node 4 --numa-binding node \
  --master-addr "$address" --master-port 29500 \
  -m photochrom train --config l2 --data.train "$shards" --out "$out" \
  --train.precision fp16 --train.grad_compression fp16 --train.batch_size 672 --schedule.lr_scaling sqrt --schedule.reference_batch_size 224 "$@"
