#!/usr/bin/env bash
# Installs the tagged commit with its pinned versions on all workers, once, and mounts
# the bucket: tpu/setup.sh [--dry-run]
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME REPOSITORY TAG BUCKET
slice_setup
