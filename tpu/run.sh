#!/usr/bin/env bash
# Starts or continues a run, the same command on all workers:
# RUN_ID=try tpu/run.sh [--dry-run] --config configs/quickstart.py [--config.X=Y ...]
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME REPOSITORY TAG BUCKET RUN_ID
[[ ${#ARGUMENTS[@]} -gt 0 ]] || fail "give the arguments of $MODULE, such as --config."
job_start
