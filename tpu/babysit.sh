#!/usr/bin/env bash
# Sees a run to its end through preemptions: creates, sets up and runs, and does it
# all again when the slice was taken. Takes what run.sh takes. Ends with the status of
# the run and deletes the slice (KEEP=1: leaves it). Stopping it stops nothing else.
source "$(dirname "$0")/env.sh"
parse "$@"
require PROJECT ZONE TPU_NAME REPOSITORY TAG BUCKET RUN_ID
[[ ${#ARGUMENTS[@]} -gt 0 ]] || fail "give the arguments of $MODULE, such as --config."

# Creates, sets up and starts; false if something failed on the way.
start() {
  "$tpu/create.sh" ${dry[@]+"${dry[@]}"} && slice_setup && job_start
}

# Prints how a started run ended: its status, lost, or taken, as its slice was.
watch() {
  local status unheard=0
  while ((unheard < 10)); do
    status=$(job_status)
    case $status in
      running) unheard=0 ;;
      unreachable)
        unheard=$((unheard + 1))
        [[ ! $(slice_state) =~ ^(gone|absent)$ ]] || { echo taken && return; }
        ;;
      *) echo "$status" && return ;;
    esac
    sleep "$POLL_SECONDS"
  done
  echo lost
}

dry=()
[[ $DRY_RUN == 0 ]] || dry=(--dry-run)
failures=0
while true; do
  began=$SECONDS
  status="not started"
  if start; then
    [[ $DRY_RUN == 0 ]] || break
    status=$(watch)
  fi
  case $status in
    0 | 1 | 2) break ;; # done, a fault that was saved, a mistake of the user
  esac
  GRACE=90 # a worker that another one has left is at its end within a minute
  state=$(slice_state) || state=unknown
  echo "$RUN_ID: $status, the slice is $state; once more." >&2
  [[ $state != gone && $state != absent ]] || continue
  # What ran for an hour before it failed may well do so again.
  ((SECONDS - began < 3600)) || failures=0
  failures=$((failures + 1))
  if ((failures >= MAX_FAILURES)); then
    echo "Gave up after $failures failures in a row; the slice is kept." >&2
    exit 1
  fi
done
if [[ $DRY_RUN == 0 ]]; then
  job_log 0 0
  echo "$RUN_ID ended with status $status; its results are in runs/$RUN_ID of $BUCKET." >&2
fi
[[ $KEEP == 1 ]] || slice_delete
exit "$((DRY_RUN ? 0 : status))"
