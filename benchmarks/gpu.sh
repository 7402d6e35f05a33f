#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: is everything right, and how fast is it? `--help` tells the options.
# Needs `pip install -e ".[cuda,test]"`; compares with torch and CuPy where they are installed. No network.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" benchmarks/gpu_run.py "$@"
