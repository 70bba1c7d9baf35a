#!/usr/bin/env bash
# All measurements that need a GPU, in one call of under 8 minutes, into one JSON file.
#
#     benchmarks/gpu.sh [--audio FOLDER] [--out FILE] [--cpu]      (see benchmarks/gpu.py)
#
# In a bare checkout it first creates the environment .venv, unless PYTHON names one that has the package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z ${PYTHON:-} ]]; then
    [[ -x .venv/bin/python ]] || make setup
    PYTHON=.venv/bin/python
fi
# Sections end in time by themselves; this stops one that hangs. Earlier measurements are on disk.
exec timeout --signal=INT --kill-after=20 "${AJEPA_GPU_SECONDS:-475}" "$PYTHON" benchmarks/gpu.py "$@"
