#!/usr/bin/env bash
# Gives the slice back; results stay in the bucket: tpu/delete.sh [--dry-run]
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME
[[ $(slice_state) == absent && $DRY_RUN == 0 ]] || slice_delete
