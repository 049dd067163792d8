# shellcheck shell=bash
# What the other scripts share: settings, from the environment or these defaults,
# and the functions that call gcloud. Sourced, never run.

set -euo pipefail

# The slice: v4-8, v5e-8, v5p-8 or v6e-8 (a queued resource; the number is that of
# its name, chips for v5e and v6e, cores for v4 and v5p), or tpu7x:2x2x1, tpu7x:4x4x4
# (a node pool of a cluster; the topology of chips, four to a host).
: "${ACCELERATOR:=v5e-8}"
: "${TPU_NAME:=cmtree}"  # of the slice, and of all that belongs to it
: "${PROJECT:=$(gcloud config get-value project 2>/dev/null || true)}"
: "${ZONE:=us-west4-a}"
: "${SPOT:=1}"           # 1: cheap, and taken away at any moment; 0: on demand
: "${CLUSTER:=}"         # of Kubernetes in that zone, for tpu7x alone
: "${IMAGE:=python:3.11}" # has git and curl, for tpu7x alone
: "${SERVICE_ACCOUNT:=default}" # of Kubernetes, may use the bucket, for tpu7x alone
: "${REPOSITORY:=}"      # address that `git clone` takes
: "${TAG:=}"             # the tag that is installed
: "${BUCKET:=}"          # of Cloud Storage, which all workers mount; keeps the results
: "${RUN_ID:=}"          # names a run; the same name continues it
: "${MODULE:=cmtree_jax.main}"
: "${POLL_SECONDS:=60}"  # between two looks at a slice or a run
: "${MAX_FAILURES:=5}"   # ends without a result, in a row, before one gives up
: "${KEEP:=0}"           # 1: babysit leaves the slice when the run is at its end

BUCKET=${BUCKET#gs://} BUCKET=${BUCKET%/} # its name alone
DRY_RUN=0
ARGUMENTS=()
GRACE=0 # seconds that a start waits for what is left of the run on a worker

# Takes --dry-run from the arguments; the rest is in ARGUMENTS.
parse() {
  local argument
  for argument in "$@"; do
    if [[ $argument == --dry-run ]]; then DRY_RUN=1; else ARGUMENTS+=("$argument"); fi
  done
}

fail() {
  echo "Error: $*" >&2
  exit 2
}

# Wants these settings to be there: require PROJECT BUCKET
require() {
  local name
  for name in "$@"; do
    [[ -n ${!name} ]] || fail "set $name in the environment (tpu/README.md)."
  done
}

# Runs a command, after showing it; with --dry-run only shows it.
run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ $DRY_RUN == 1 ]] || "$@"
}

# The same for what may fail for a moment: three tries.
retry() {
  local attempt
  for attempt in 1 2 3; do
    if run "$@"; then return 0; fi
    [[ $attempt == 3 ]] || sleep "$POLL_SECONDS"
  done
  echo "Failed three times: $1 ${*:2:4} ..." >&2
  return 1
}

# Prints the command of the run for a shell on a worker, where the bucket is mounted.
job_command() {
  # shellcheck disable=SC2016 # the worker's home
  printf 'env CMTREE_CACHE="$HOME/shared/cache" .venv/bin/python -m %q --distributed' "$MODULE"
  # shellcheck disable=SC2016
  printf ' --workdir "$HOME/shared/runs/%q"' "$RUN_ID"
  printf ' %q' ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
}

# Prints shell text that installs the tagged commit in ~/cmtree_jax/TAG, once, and
# goes there.
setup_text() {
  local tag address
  tag=$(printf %q "$TAG") address=$(printf %q "$REPOSITORY")
  cat <<END
set -eu
export PATH="\$HOME/.local/bin:\$PATH"
folder=\$HOME/cmtree_jax/$tag
if [ ! -f "\$folder/.ready" ]; then
  rm -rf "\$folder"
  git -c advice.detachedHead=false clone --quiet --depth 1 --branch $tag $address "\$folder"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  cd "\$folder"
  uv venv --quiet --python 3.11 .venv
  uv pip install --quiet --constraint .ci/constraints.txt --editable ".[tpu,all]"
  touch .ready
fi
cd "\$folder"
END
}

tpu=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case $ACCELERATOR in
  v4-* | v5e-* | v5litepod-* | v5p-* | v6e-*) backend=queued ;;
  tpu7x:*) backend=cluster ;;
  *) fail "ACCELERATOR=$ACCELERATOR is none of v4-*, v5e-*, v5p-*, v6e-*, tpu7x:*." ;;
esac
# shellcheck source=queued.sh
source "$tpu/$backend.sh"
