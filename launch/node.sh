#!/usr/bin/env bash
# One machine, PROCESSES of them: FSDP2 shards the states. Each step's micro-batches divide among the processes.
#   PROCESSES=8 RECIPE=thinker_2 OUT=runs/a launch/node.sh --set compile=true
set -euo pipefail
exec python -m torch.distributed.run --standalone --nproc-per-node "${PROCESSES:=8}" \
    -m omni_lab.cli train "${RECIPE:-all}" --scale "${SCALE:-gpu}" --out "${OUT:-runs/scaled}" --resume "$@" \
    --set accumulate="$PROCESSES"
