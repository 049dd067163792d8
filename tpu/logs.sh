#!/usr/bin/env bash
# Shows what a run prints, and follows it: RUN_ID=try tpu/logs.sh [--dry-run] [WORKER]
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME RUN_ID
job_log "${ARGUMENTS[0]:-0}" 1
