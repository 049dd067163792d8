# shellcheck shell=bash
# A slice as a node pool of a Kubernetes cluster (TPU7x, which the Cloud TPU API does
# not serve): a run is a job with one pod for each host, and Kubernetes restarts it.

topology=${ACCELERATOR#tpu7x:}
[[ $topology =~ ^[0-9]+x[0-9]+x[0-9]+$ ]] ||
  fail "ACCELERATOR=$ACCELERATOR needs a topology of chips, such as tpu7x:2x2x1."
hosts=$((${topology//x/*} / 4))
place=(--project "$PROJECT" --zone "$ZONE")

slice_state() {
  local status
  require CLUSTER
  if [[ $DRY_RUN == 1 ]]; then
    run gcloud container node-pools describe "$TPU_NAME" --cluster "$CLUSTER" "${place[@]}"
    echo absent
    return
  fi
  status=$(gcloud container node-pools list --cluster "$CLUSTER" "${place[@]}" \
    --filter="name=$TPU_NAME" --format='value(status)') || return 1
  case $status in
    '') echo absent ;;
    RUNNING | RUNNING_WITH_ERROR) echo ready ;;
    PROVISIONING | RECONCILING) echo waiting ;;
    *) echo gone ;;
  esac
}

slice_create() {
  local how=()
  [[ $SPOT == 0 ]] || how=(--spot)
  if [[ $hosts -gt 1 ]]; then # hosts of one slice stand side by side
    run gcloud compute resource-policies create workload-policy "$TPU_NAME" \
      --project "$PROJECT" --region "${ZONE%-*}" --type HIGH_THROUGHPUT \
      --accelerator-topology "$topology" || true # it may be there
    how+=(--placement-policy "$TPU_NAME")
  fi
  retry gcloud container node-pools create "$TPU_NAME" --cluster "$CLUSTER" \
    "${place[@]}" --machine-type tpu7x-standard-4t --num-nodes "$hosts" \
    ${how[@]+"${how[@]}"}
}

slice_delete() {
  retry gcloud container node-pools delete "$TPU_NAME" --cluster "$CLUSTER" \
    "${place[@]}" --quiet
}

# Pods install the tagged commit when they start.
slice_setup() {
  run gcloud container clusters get-credentials "$CLUSTER" "${place[@]}"
}

# Pods that were disrupted are started anew without end; a fault and a mistake of the
# user (statuses 1 and 2) end the job.
manifest() {
  local text indent="          "
  text="$(setup_text)
exec $(job_command)"
  cat <<END
apiVersion: v1
kind: Service
metadata: {name: $RUN_ID}
spec:
  clusterIP: None
  selector: {job-name: $RUN_ID}
---
apiVersion: batch/v1
kind: Job
metadata: {name: $RUN_ID}
spec:
  completionMode: Indexed
  completions: $hosts
  parallelism: $hosts
  backoffLimit: $((MAX_FAILURES * hosts))
  podFailurePolicy:
    rules:
    - {action: FailJob, onExitCodes: {operator: In, values: [1, 2]}}
    - {action: Ignore, onPodConditions: [{type: DisruptionTarget}]}
  template:
    metadata:
      annotations: {gke-gcsfuse/volumes: "true"}
    spec:
      subdomain: $RUN_ID
      restartPolicy: Never
      terminationGracePeriodSeconds: 60
      nodeSelector:
        cloud.google.com/gke-nodepool: $TPU_NAME
        cloud.google.com/gke-tpu-accelerator: tpu7x
        cloud.google.com/gke-tpu-topology: $topology
      serviceAccountName: $SERVICE_ACCOUNT
      volumes:
      - name: shared
        csi:
          driver: gcsfuse.csi.storage.gke.io
          volumeAttributes:
            bucketName: $BUCKET
            mountOptions: "implicit-dirs,metadata-cache:ttl-secs:0,rename-dir-limit:1000000"
      containers:
      - name: cmtree
        image: $IMAGE
        resources: {requests: {google.com/tpu: 4}, limits: {google.com/tpu: 4}}
        env: [{name: HOME, value: /cmtree}]
        volumeMounts: [{name: shared, mountPath: /cmtree/shared}]
        command: [bash, -c]
        args:
        - |
$indent${text//$'\n'/$'\n'$indent}
END
}

job_start() {
  if [[ $DRY_RUN == 0 && $(job_status) == running ]]; then
    echo "$RUN_ID goes on." >&2
    return
  fi
  run kubectl delete job "$RUN_ID" --ignore-not-found
  if [[ $DRY_RUN == 1 ]]; then
    run kubectl apply --filename -
    manifest
  else
    manifest | run kubectl apply --filename -
  fi
}

# Prints running, the exit status, lost, or unreachable.
job_status() {
  local found
  found=$(kubectl get job "$RUN_ID" --ignore-not-found \
    --output jsonpath='{.metadata.name} {.status.conditions[?(@.status=="True")].type}') ||
    { echo unreachable && return; }
  case $found in
    '') echo lost ;;
    *Complete*) echo 0 ;;
    *Failed*) echo 1 ;; # the log says which of 1 and 2 it was
    *) echo running ;;
  esac
}

# Shows what the pod of host $1 printed; follows it unless $2 is 0.
job_log() {
  local follow=()
  [[ $2 == 0 ]] || follow=(--follow)
  run kubectl logs --tail 100 ${follow[@]+"${follow[@]}"} \
    --selector "job-name=$RUN_ID,batch.kubernetes.io/job-completion-index=$1"
}
