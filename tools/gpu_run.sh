#!/usr/bin/env bash
# Runs the packed tests on a machine with a CUDA GPU, Python 3.12, torch and pytest, and no network.
#
#   bash run.sh              the tests marked gpu
#   bash run.sh all          the CPU suite as well
#   bash run.sh ... -k NAME  further arguments go to pytest
#   timeout -s INT 500 bash run.sh -n 6 --dist loadfile     bounded: what failed is told at the end
#
# SITE names the folder that the wheels are installed into (default: site/ beside this script).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

site=${SITE:-$PWD/site}
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" wheels/*.whl
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

# References run on the CPU, beside each other where pytest has several processes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

marks=gpu
if [ "${1:-}" = all ]; then
    marks='not slow'
    shift
fi
# tests/repository reads the source tree, which does not travel; the others serve over HTTP, with
# libraries that such a machine lacks, and compute nothing on a device of their own.
ignored=(
    tests/repository tests/server tests/security
    tests/examples/test_server_examples.py packages/server-openai
    tests/oracle/test_embed_phi3v.py packages/core/tests/media/fetch/test_tls.py
)
exec python3 -m pytest -p no:cacheprovider -m "$marks" "${ignored[@]/#/--ignore=}" "$@"
