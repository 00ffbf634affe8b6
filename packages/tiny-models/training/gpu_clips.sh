#!/usr/bin/env bash
# Trains tiny-vl on clips beside pictures, on a machine with a CUDA GPU; from the weights in the
# model's folder, unless --init names others.
#
#   bash gpu_clips.sh OUTPUT MINUTES [options of train.py]
#
# OUTPUT gets model.safetensors (15 MB), log.jsonl and run.log, anew after each test of the model;
# what --resume needs stays in a scratch folder.
set -uo pipefail
output=$(realpath -m "$1") minutes=$2
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$output"
scratch=$(mktemp -d)
export OMP_NUM_THREADS=1
python3 train.py "$scratch" --minutes "$minutes" \
    --init ../src/sensorium_tiny_models/model/model.safetensors \
    --clips 0.5 --batch 512 --rate 6e-4 --warm-steps 150 --smoothing 0.05 --seed clips \
    --eval-every 60 --eval-items 40 --workers 7 "$@" >"$output/run.log" 2>&1 &
run=$!
while kill -0 "$run" 2>/dev/null; do
    sleep 5
    cp -u "$scratch"/{model.safetensors,log.jsonl} "$output" 2>/dev/null
done
wait "$run"
status=$?
cp -u "$scratch"/{model.safetensors,log.jsonl} "$output"
tail -n 3 "$output/run.log" | cut -c1-1500
exit "$status"
