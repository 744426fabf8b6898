#!/usr/bin/env bash
# Train on this machine with all of its GPUs.
#
# Several GPUs train with DDP, one GPU trains in one process, and without a GPU one process trains on the CPU. Set
# TOPOLOGY to use another accelerate file (a path, or a name in configs/accelerate) with all GPUs. CUDA_VISIBLE_DEVICES
# limits the GPUs. All arguments are passed to `mlm-dist train`.
#
#     launch/local.sh --config configs/runs/azure_docs.yaml --optim.lr 3e-5
#     TOPOLOGY=zero2 launch/local.sh --config configs/runs/azure_docs.yaml
set -euo pipefail

die() {
    echo "local.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# In a checkout, its package is used; an active environment is preferred to the .venv that `make` creates.
if [[ -f $root/mlm_dist/program.py ]]; then
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    command -v mlm-dist >/dev/null || PATH=$root/.venv/bin:$PATH
fi
command -v mlm-dist >/dev/null || die "mlm-dist is not installed; activate its environment, or run 'pip install -e .'"

num_gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())') || die "torch cannot be imported; see above"
if [[ -z ${TOPOLOGY:-} ]]; then
    case $num_gpus in
        0) TOPOLOGY=cpu ;;
        1) TOPOLOGY=gpu ;;
        *) TOPOLOGY=ddp ;;
    esac
fi
file=$TOPOLOGY
[[ -f $file ]] || file=$root/configs/accelerate/$TOPOLOGY.yaml
[[ -f $file ]] || die "TOPOLOGY: no accelerate file '$TOPOLOGY', neither here nor in $root/configs/accelerate"

processes=()
if ((num_gpus)) && ! grep -Eiq "^(distributed_type: *['\"]?NO\b|use_cpu: *['\"]?true|gpu_ids: *['\"]?-1)" "$file"; then
    processes=(--num_processes "$num_gpus")
fi

# Port 0 selects a free port, so that two runs can share a machine. `mlm-dist` calls accelerate's launcher, passes
# signals on, and exits with the codes of the README.
exec mlm-dist train --topology "$file" ${processes[@]+"${processes[@]}"} --main_process_port 0 "$@"
