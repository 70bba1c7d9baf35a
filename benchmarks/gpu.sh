#!/usr/bin/env bash
# Everything that only a GPU can show, in one call of under 8 minutes, into one JSON file.
#
#     benchmarks/gpu.sh [--audio FOLDER] [--out FILE] [--cpu]      (see benchmarks/gpu.py)
#
# From a bare checkout it first makes the environment, .venv, unless PYTHON names one that has the package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z ${PYTHON:-} ]]; then
    [[ -x .venv/bin/python ]] || make setup
    PYTHON=.venv/bin/python
fi
# Sections end by themselves in time; this ends one that hangs. What was measured before is on disk.
exec timeout --signal=INT --kill-after=20 "${AJEPA_GPU_SECONDS:-475}" "$PYTHON" benchmarks/gpu.py "$@"
