# shellcheck shell=bash
# A slice as a queued resource of the Cloud TPU API (v4, v5e, v5p, v6e): virtual
# machines that commands are sent to.

# The accelerator's name in the API, and the image of its machines.
case $ACCELERATOR in
  v4-*) accelerator_type=$ACCELERATOR runtime=tpu-ubuntu2204-base ;;
  v5e-*) accelerator_type=v5litepod-${ACCELERATOR#v5e-} runtime=v2-alpha-tpuv5-lite ;;
  v5litepod-*) accelerator_type=$ACCELERATOR runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) accelerator_type=$ACCELERATOR runtime=v2-alpha-tpuv5 ;;
  v6e-*) accelerator_type=$ACCELERATOR runtime=v2-alpha-tpuv6e ;;
esac
place=(--project "$PROJECT" --zone "$ZONE")

# Prints absent, waiting, ready, or gone: preempted, failed or on its way out.
slice_state() {
  local state node
  if [[ $DRY_RUN == 1 ]]; then
    run gcloud compute tpus queued-resources describe "$TPU_NAME" "${place[@]}"
    echo absent
    return
  fi
  state=$(gcloud compute tpus queued-resources list "${place[@]}" \
    --filter="name~/$TPU_NAME\$" --format='value(state.state)') || return 1
  case $state in
    '') echo absent ;;
    ACTIVE)
      # The request stays active for a while after its machines were taken.
      node=$(gcloud compute tpus tpu-vm describe "$TPU_NAME" "${place[@]}" \
        --format='value(state)' 2>/dev/null) || node=
      case $node in
        READY) echo ready ;;
        CREATING | STARTING | RESTARTING | REPAIRING) echo waiting ;;
        *) echo gone ;;
      esac
      ;;
    FAILED | SUSPENDED | SUSPENDING | DELETING) echo gone ;;
    *) echo waiting ;;
  esac
}

slice_create() {
  local how=()
  [[ $SPOT == 0 ]] || how=(--spot)
  retry gcloud compute tpus queued-resources create "$TPU_NAME" "${place[@]}" \
    --node-id "$TPU_NAME" --accelerator-type "$accelerator_type" \
    --runtime-version "$runtime" ${how[@]+"${how[@]}"}
}

# --force takes the machines along, which an active request has.
slice_delete() {
  retry gcloud compute tpus queued-resources delete "$TPU_NAME" "${place[@]}" \
    --force --quiet
}

# Sends a command to one worker or to all of them: on_workers all TEXT
on_workers() {
  retry gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" \
    --worker "$1" --command "$2"
}

slice_setup() {
  on_workers all "$(setup_text)
$(mount_text)"
}

# Prints shell text that mounts the bucket at ~/shared. What one worker has written
# the others must see at once, so nothing is remembered of what files there are.
mount_text() {
  cat <<END
if ! command -v gcsfuse >/dev/null; then
  source=gcsfuse-\$(lsb_release --codename --short)
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key >/dev/null
  echo "deb [signed-by=\$key] https://packages.cloud.google.com/apt \$source main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq update && sudo apt-get -qq install --yes gcsfuse
fi
mkdir -p "\$HOME/shared"
mountpoint -q "\$HOME/shared" ||
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs 0 --rename-dir-limit 1000000 \
    $(printf %q "$BUCKET") "\$HOME/shared"
END
}

# Starts the run on all workers, unless it goes on there. It outlives the connection,
# and holds the lock as long as it lives.
job_start() {
  on_workers all "set -eu
runs=\$HOME/runs/$(printf %q "$RUN_ID")
mkdir -p \"\$runs\"
cd \"\$HOME/cmtree_jax/$(printf %q "$TAG")\"
exec 9>\"\$runs/lock\"
if ! flock --wait $GRACE 9; then echo \"$RUN_ID goes on.\"; exit 0; fi
rm -f \"\$runs/status\"
export RUNS=\"\$runs\" JOB=$(printf %q "$(job_command)")
setsid nohup bash -c 'eval \"\$JOB\" >>\"\$RUNS/log\" 2>&1; echo \$? >\"\$RUNS/status\"' \
</dev/null >/dev/null 2>&1 &"
}

# Prints running, the exit status on the first worker, lost, or unreachable.
job_status() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker 0 --command "
runs=\$HOME/runs/$(printf %q "$RUN_ID")
if [ -f \"\$runs/status\" ]; then cat \"\$runs/status\"
elif [ -f \"\$runs/lock\" ] && ! flock --nonblock \"\$runs/lock\" true; then echo running
else echo lost; fi" 2>/dev/null || echo unreachable
}

# Shows what worker $1 printed; follows it unless $2 is 0.
job_log() {
  local follow=--follow
  [[ $2 == 1 ]] || follow=
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${place[@]}" --worker "$1" \
    --command "tail -n 100 $follow \$HOME/runs/$(printf %q "$RUN_ID")/log"
}
