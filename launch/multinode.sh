#!/usr/bin/env bash
# Train on several machines: start it once on each, by hand, from Slurm or from Kubernetes, with the same arguments.
#
#     MASTER_ADDR     address of machine 0, as all others reach it
#     MASTER_PORT     a port that is free there, the same for all
#     NNODES          number of machines
#     NODE_RANK       this machine, from 0 to NNODES - 1
#     NPROC_PER_NODE  processes on each machine: its GPUs
#     TOPOLOGY        accelerate file (a path, or a name in configs/accelerate); by default multinode, which is DDP
#     RDZV_BACKEND    static (default) or c10d, for which all machines must know each other's host names
#
#     MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 NNODES=2 NODE_RANK=0 NPROC_PER_NODE=8 TOPOLOGY=zero2 \
#         launch/multinode.sh --config configs/runs/azure_docs.yaml --corpus.cache_dir /shared/mlm_dist
#
# All machines share corpus.cache_dir and output_dir. USR1 and TERM are passed on to the training processes themselves.
set -euo pipefail

die() {
    echo "multinode.sh: $*" >&2
    exit 2
}

for name in MASTER_ADDR MASTER_PORT NNODES NODE_RANK NPROC_PER_NODE; do
    [[ -n ${!name:-} ]] || die "$name is not set; the head of this file says what it means"
done
for name in MASTER_PORT NNODES NODE_RANK NPROC_PER_NODE; do
    [[ ${!name} =~ ^(0|[1-9][0-9]*)$ ]] || die "$name must be a number, got '${!name}'"
done
((NNODES >= 1)) || die "NNODES must be at least 1"
((NPROC_PER_NODE >= 1)) || die "NPROC_PER_NODE must be at least 1"
((NODE_RANK < NNODES)) || die "NODE_RANK must be from 0 to NNODES - 1 = $((NNODES - 1)), got $NODE_RANK"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# An environment that is active wins over the one `make` sets up.
command -v accelerate >/dev/null || PATH=$root/.venv/bin:$PATH
command -v accelerate >/dev/null || die "accelerate is not installed; run 'make quickstart' or 'pip install -e .' first"

TOPOLOGY=${TOPOLOGY:-multinode}
file=$TOPOLOGY
[[ -f $file ]] || file=$root/configs/accelerate/$TOPOLOGY.yaml
[[ -f $file ]] || die "TOPOLOGY: there is no accelerate file '$TOPOLOGY', here or in $root/configs/accelerate"
if grep -Eq "^distributed_type: *['\"]?NO\b" "$file"; then
    die "TOPOLOGY: $file is for one process, so that each machine would train alone; name another"
fi

# accelerate takes these from its flags alone: it reads neither rdzv_backend nor same_network from a file.
case ${RDZV_BACKEND:-static} in
    # Everyone connects to MASTER_ADDR as it is written, NODE_RANK orders the machines, and machine 0 may start last.
    static) rendezvous=(--rdzv_backend static --same_network) ;;
    # --same_network would leave c10d without an address, and each machine waiting for itself.
    c10d) rendezvous=(--rdzv_backend c10d --rdzv_conf "is_host=$((NODE_RANK == 0)),read_timeout=900") ;;
    *) die "RDZV_BACKEND must be static or c10d, got '$RDZV_BACKEND'" ;;
esac
# The default, pdsh, would log in to the other machines; here each has its own launcher.
if grep -Eq "^distributed_type: *['\"]?DEEPSPEED" "$file"; then
    rendezvous+=(--deepspeed_multinode_launcher standard)
fi

launcher=
# shellcheck disable=SC2329 # the traps call it
forward() {
    [[ -n $launcher ]] || exit 1
    # The training processes are the launcher's children, in sessions of their own: what reaches the launcher does not
    # reach them, and a launcher that is told to stop kills them after 30 s. Before there are any, it can go at once.
    pkill "-$1" --parent "$launcher" || kill -TERM "$launcher" 2>/dev/null || true
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM INT

(
    trap '' USR1  # who signals every process of a job must not kill the launcher
    exec accelerate launch --config_file "$file" \
        --num_machines "$NNODES" --num_processes "$((NNODES * NPROC_PER_NODE))" --machine_rank "$NODE_RANK" \
        --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "${rendezvous[@]}" \
        "$root/mlm_dist/train.py" "$@"
) &
launcher=$!

code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do  # a signal ended the wait, not the launcher
    code=0
    wait "$launcher" || code=$?
done
exit "$code"
