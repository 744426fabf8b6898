#!/usr/bin/env bash
# Train on several machines. Start this script once on each machine with the same arguments, by hand, from Slurm or from
# Kubernetes.
#
#     MASTER_ADDR     address of machine 0, reachable from all others
#     MASTER_PORT     a free port on machine 0, the same for all
#     NNODES          number of machines
#     NODE_RANK       index of this machine, from 0 to NNODES - 1
#     NPROC_PER_NODE  processes on each machine: the number of its GPUs
#     TOPOLOGY        accelerate file: a path, or a name of `mlm-dist train --help`; default: multinode, which is DDP
#     RDZV_BACKEND    static (default), or c10d, which needs host names that all machines resolve
#
#     MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 NNODES=2 NODE_RANK=0 NPROC_PER_NODE=8 TOPOLOGY=zero2 \
#         launch/multinode.sh --config configs/runs/azure_docs.yaml --corpus.cache_dir /shared/mlm_dist
#
# corpus.cache_dir and output_dir must be on a disk that all machines share. INT, TERM, HUP and USR1 save the run and
# end it with exit code 75.
set -euo pipefail

die() {
    echo "multinode.sh: $*" >&2
    exit 2
}

for name in MASTER_ADDR MASTER_PORT NNODES NODE_RANK NPROC_PER_NODE; do
    [[ -n ${!name:-} ]] || die "$name is not set; see the head of this file"
done
for name in MASTER_PORT NNODES NODE_RANK NPROC_PER_NODE; do
    [[ ${!name} =~ ^(0|[1-9][0-9]*)$ ]] || die "$name must be a number, got '${!name}'"
done
((NNODES >= 1)) || die "NNODES must be at least 1"
((NPROC_PER_NODE >= 1)) || die "NPROC_PER_NODE must be at least 1"
((NODE_RANK < NNODES)) || die "NODE_RANK must be from 0 to NNODES - 1 = $((NNODES - 1)), got $NODE_RANK"

# In a checkout, its package is used; an active environment is preferred to the .venv that `make` creates.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -f $root/mlm_dist/program.py ]]; then
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    command -v mlm-dist >/dev/null || PATH=$root/.venv/bin:$PATH
fi
command -v mlm-dist >/dev/null || die "mlm-dist is not installed; activate its environment, or run 'pip install -e .'"

# accelerate reads rdzv_backend and same_network only from flags, not from the file.
case ${RDZV_BACKEND:-static} in
    # All machines connect to MASTER_ADDR as given, NODE_RANK orders them, and machine 0 may start last.
    static) rendezvous=(--rdzv_backend static --same_network) ;;
    # With --same_network, c10d has no address and each machine waits for itself.
    c10d) rendezvous=(--rdzv_backend c10d --rdzv_conf "is_host=$((NODE_RANK == 0)),read_timeout=900") ;;
    *) die "RDZV_BACKEND must be static or c10d, got '$RDZV_BACKEND'" ;;
esac

# `mlm-dist` calls accelerate's launcher, passes signals on, lets the processes save for as long as it takes, and exits
# with the codes of the README. DeepSpeed's default launcher, pdsh, logs in to the other machines; here each machine
# starts its own.
exec mlm-dist train --topology "${TOPOLOGY:-multinode}" --deepspeed_multinode_launcher standard \
    --num_machines "$NNODES" --num_processes "$((NNODES * NPROC_PER_NODE))" --machine_rank "$NODE_RANK" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" "${rendezvous[@]}" "$@"
