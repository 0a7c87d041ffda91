#!/usr/bin/env bash
# What a GPU can do, in one go of some nine minutes: packing, decoding, losses, steps, training, evaluation, stalls, and the tests that need one.
#   usage: bench/gpu.sh PHOTOGRAPHS OUT     figures go to OUT as JSON, what was printed to OUT/log.txt
# A step that fails or takes too long is said so, and the next one begins.
set -uo pipefail
photographs=$1 out=$2 work=$(mktemp -d)
mkdir -p "$out"
exec > >(tee "$out/log.txt") 2>&1

step() { # seconds, then a command
  local limit=$1 start=$SECONDS; shift
  echo "--- $*"
  timeout "$limit" "$@" || echo "!!! rc $?: $*"
  echo "--- $((SECONDS - start)) s"
}
train() { # a name, then settings
  local name=$1; shift
  step 75 python3 -m photochrom train --config l2 --data.train "$work/shards" --out "$work/$name" --log.every 5 "$@" > "$work/$name.log" 2>&1
  tail -n 4 "$work/$name.log"
  cp "$work/$name/summary.json" "$out/train-$name.json"
  cp "$work/$name/metrics.jsonl" "$out/train-$name-metrics.jsonl"
}

nvidia-smi -L
step 60 python3 -m photochrom doctor
step 60 python3 -m photochrom pack "$photographs" "$work/shards"
step 60 python3 -m photochrom.bench.stages "$work/shards" --device cuda --batch-size 64 --seconds 10 --out "$out/stages.json"
step 60 python3 -m photochrom.bench.losses --device cuda --seconds 10 --out "$out/losses.json"
step 150 python3 -m photochrom.bench.step --device cuda --batch-sizes 64 --seconds 20 --out "$out/step.json"
step 120 python3 -m photochrom.bench.loaders "$photographs" --device cuda --batch-size 128 --rounds 3 --seconds 2 \
  --only original:squash,DaliLoader,TorchLoader:originals --out "$out/loaders.json"
train auto --train.steps 150 --train.batch_size 224 --train.precision auto
train fp32 --train.steps 40 --train.batch_size 224 --train.precision fp32
step 60 python3 -m photochrom evaluate "$work/auto" --data "$work/shards" --out "$work/report" --precision auto
cp "$work/report/summary.json" "$out/evaluate.json"
step 90 python3 -m photochrom bench stalls --config l2 --data "$work/shards" --train.batch_size 128 --seconds 30 --out "$out/stalls-l2.json"
step 150 python3 -m pytest -q -m gpu -p no:cacheprovider --durations=3
rm -rf "$work"
