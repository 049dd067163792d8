#!/usr/bin/env bash
# Asks for the slice and waits until it is there: tpu/create.sh [--dry-run]
# A slice that is there is kept; what preemption left of one is removed first.
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME

while true; do
  state=$(slice_state)
  case $state in
    ready) break ;;
    waiting)
      echo "$TPU_NAME ($ACCELERATOR) waits for its machines." >&2
      sleep "$POLL_SECONDS"
      ;;
    gone) slice_delete ;;
    absent)
      slice_create
      [[ $DRY_RUN == 0 ]] || break
      ;;
  esac
done
echo "$TPU_NAME ($ACCELERATOR) is there." >&2
