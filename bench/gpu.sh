#!/usr/bin/env bash
# Measures a GPU in under nine minutes: its tests, loaders, training steps, stalls, and a run.
#   usage: bench/gpu.sh PHOTOGRAPHS [OUT]     writes JSON and log.txt to OUT (bench/results/NAME-OF-THE-GPU)
# A step that fails or takes too long is reported, and the next one starts.
set -uo pipefail
ALL=535 # seconds
if [ $# -lt 1 ] || [ ! -e "$1" ]; then
  echo "usage: bench/gpu.sh PHOTOGRAPHS [OUT], a folder or an archive of photographs" >&2
  exit 2
fi
if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1) || [ -z "$gpu" ]; then
  echo "bench/gpu.sh needs an NVIDIA GPU, and nvidia-smi finds none: 'photochrom doctor' says what is missing" >&2
  exit 1
fi
photographs=$1 work=$(mktemp -d)
out=${2:-$(dirname "$0")/results/$(echo "${gpu#NVIDIA }" | tr 'A-Z ' 'a-z-')}
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

step() { # seconds, then a command
  local limit=$1 start=$SECONDS left=$((ALL - SECONDS)); shift
  if [ "$left" -lt 5 ]; then echo "!!! skipped, $ALL s are over: $*"; return; fi
  echo "--- $*"
  timeout "$((left < limit ? left : limit))" "$@" || echo "!!! rc $?: $*"
  echo "--- $((SECONDS - start)) s of $limit"
}
photochrom() { # seconds, then arguments of photochrom
  local limit=$1; shift
  step "$limit" python3 -m photochrom "$@"
}

photochrom 30 doctor
photochrom 40 pack "$photographs" "$work/shards"
step 130 python3 -m pytest -q -m gpu -p no:cacheprovider --durations=3
photochrom 130 bench step --config l2 --train.batch_size 224 --seconds 60 --out "$out/step.json"
# A run of two minutes with previews and validation, then its evaluation. timeout stops it (rc 124).
step 140 timeout --signal INT 120 python3 -m photochrom train --config l2 --data.train "$work/shards" --data.val "$work/shards" \
  --out "$work/run" --log.every 5 --log.preview_every 50 --log.validate_every 100
cp "$work/run/metrics.jsonl" "$out/train-metrics.jsonl"
previews=("$work/run/previews"/*)
cp "${previews[-1]}" "$out/train-preview.jpg"
photochrom 40 evaluate "$work/run" --data "$work/shards" --out "$work/report" --precision auto --baseline grey mean
cp "$work/report/summary.json" "$out/evaluate.json"
photochrom 60 bench stalls --config l2 --data "$work/shards" --train.batch_size 128 --seconds 15 --out "$out/stalls.json"
photochrom 90 bench loader --config l2 --data "$work/shards" --train.batch_size 128 --seconds 25 --out "$out/loader.json"
