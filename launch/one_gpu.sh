#!/usr/bin/env bash
# One process: a GPU, or a CPU with SCALE=cpu. Started again, it goes on from its last checkpoint.
#   RECIPE=thinker_2 OUT=runs/a launch/one_gpu.sh --set compile=true
set -euo pipefail
exec python \
    -m omni_lab.cli train "${RECIPE:-all}" --scale "${SCALE:-gpu}" --out "${OUT:-runs/scaled}" --resume "$@"
