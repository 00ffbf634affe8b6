#!/bin/bash
# A short look at speed: the plain forward pass and the compiled one. Usage: try_speed.sh OUTPUT
set -u
cd "$(dirname "$0")" || exit 1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
nvidia-smi --query-gpu=name,memory.used --format=csv
df -h /dev/shm | tail -1
nproc
python3 train.py "$1/plain" --minutes 0.75 --warm-steps 200 --eval-items 10 --eval-every 1000 || exit 1
timeout 120 python3 train.py "$1/compiled" --minutes 1.1 --warm-steps 200 --compile --eval-items 10 --eval-every 1000
rm -f "$1"/*/model.safetensors
