#!/usr/bin/env bash
# Measures one GPU in seven minutes, or trains and saves a model on it in four. Needs no network.
#   usage: bench/gpu.sh measure|train SHARDS OUT [--dry-run]
# SHARDS: a packed set, short side 256 or more, or its folder of two sets train and test. OUT: a folder for JSON, log.txt
# and the model. Each result is written as soon as it is known; a step that fails or takes too long is reported, and the
# next one starts. --dry-run runs every command at toy size on the CPU.
set -uo pipefail
usage() { echo "usage: bench/gpu.sh measure|train SHARDS OUT [--dry-run]" >&2; exit 2; }
[ $# -ge 3 ] && [[ $1 =~ ^(measure|train)$ ]] && [[ ${4:---dry-run} == --dry-run ]] || usage
verb=$1 out=$3 dry=${4:-} train=$2 val=$2 work=$(mktemp -d) failed=0
trap 'rm -rf "$work"' EXIT
if [ -d "$2/train" ]; then train=$2/train val=$2/test; fi
if [ ! -e "$train/manifest.json" ]; then
  echo "$train is not a packed set: 'photochrom pack PHOTOGRAPHS $train --short-side 288' makes one" >&2
  exit 1
elif [ ! "$dry" ] && ! nvidia-smi > /dev/null 2>&1; then
  echo "bench/gpu.sh needs an NVIDIA GPU, and nvidia-smi finds none: 'photochrom doctor' says what is missing" >&2
  exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

settings=(--config l2) small=(--model.width 0.25 --data.size 64 --train.batch_size 8) rounds=25 steps=60
tests=("$root/tests" -n 4 -k "not reduce-overhead") model=(--train.steps 1200 --train.batch_size 128)
if [ "$dry" ]; then
  toy=(--model.width 0.0625 --data.size 32 --train.batch_size 2 --train.device cpu --train.precision fp32 --loader.threads 1)
  settings+=("${toy[@]}") small=("${toy[@]}") rounds=5 steps=6 model=("${toy[@]}" --train.steps 2)
  tests=("$root/tests/engine/training/test_precision.py")
fi

step() { # seconds, then a command
  local limit=$1 start=$SECONDS; shift
  if [ "$dry" ]; then limit=$((10 * limit)); fi # of a CPU with other work
  echo "--- $*"
  local rc=0
  timeout --kill-after "${grace:-5}" "$limit" "$@" || rc=$?
  if [ "$rc" != 0 ] && ! [ "${grace:+$rc}" = 124 ]; then echo "!!! rc $rc: $*"; failed=1; fi
  echo "--- $((SECONDS - start)) s of $limit"
}
photochrom() { local limit=$1; shift; step "$limit" python3 -m photochrom "$@"; }
probe() { # seconds, the probe's name, which is that of its file, then its arguments
  local limit=$1 name=$2; shift 2
  step "$limit" python3 -m photochrom.bench.gpu_probes "$name" --out "$out/$name.json" "$@"
}

measure() {
  local precision=bf16 compiled=default
  if [ "$dry" ]; then precision=fp32 compiled=off; fi
  local variant="$precision channels_last"
  probe 15 peak "${settings[@]}"
  photochrom 120 bench step "${settings[@]}" --seconds "$rounds" --out "$out/step.json" --variants "$precision" "$variant" \
    "$variant space_to_batch" "$variant $compiled" "$variant $compiled space_to_batch"
  probe 30 profile "${settings[@]}" --step "$out/step.json"
  probe 35 syncs "${settings[@]}" --data "$train"
  step 60 python3 -m pytest -q -m gpu -p no:cacheprovider --durations=3 "${tests[@]}"
  for loader in synthetic dali torch; do
    photochrom 33 train "${settings[@]}" --data.train "$train" --data.val "$val" --out "$work/runs/$loader" \
      --loader.backend "$loader" --train.steps "$steps" --log.every $((steps / 6)) --log.validate_every $((steps / 2)) \
      --checkpoint.every $((steps / 3)) --log.preview_every "$steps"
    probe 10 loop "${settings[@]}" --peak "$out/peak.json" --runs "$work/runs"
  done
  probe 30 exact "${small[@]}"
}

train() { # a network of width 0.5, whose file in half precision has 16 MB; a run that takes longer is stopped, and saves
  grace=20 photochrom 155 train --config small_l2 --data.weights null --data.size 128 --model.width 0.5 "${model[@]}" \
    --loader.backend auto --data.train "$train" --data.val "$val" --out "$work/run"
  photochrom 40 evaluate "$work/run" --data "$val" --out "$work/report" --baseline grey mean
  photochrom 20 export "$work/run" "$out/model.safetensors" --card --scores "$work/report"
  cp "$work/report/summary.json" "$out/evaluate.json"
  cp "$work/run/metrics.jsonl" "$out/train-metrics.jsonl"
}

"$verb"
exit "$failed"
