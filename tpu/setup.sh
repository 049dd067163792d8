#!/usr/bin/env bash
# Installs the tagged commit with its pinned versions on all workers, once:
# tpu/setup.sh [--dry-run]
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME REPOSITORY TAG
slice_setup
