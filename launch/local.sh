#!/usr/bin/env bash
# Train on this machine. For whoever has one computer and does not want to count its GPUs.
#
# Several GPUs train by DDP, one trains alone, without any a single process trains on the CPU. TOPOLOGY names another
# accelerate file (a path, or a name in configs/accelerate), which then gets all GPUs; CUDA_VISIBLE_DEVICES says which
# those are. All arguments go to mlm_dist/train.py.
#
#     launch/local.sh --config configs/runs/azure_docs.yaml --optim.lr 3e-5
#     TOPOLOGY=zero2 launch/local.sh --config configs/runs/azure_docs.yaml
set -euo pipefail

die() {
    echo "local.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# An environment that is active wins over the one `make` sets up.
command -v accelerate >/dev/null || PATH=$root/.venv/bin:$PATH
command -v accelerate >/dev/null || die "accelerate is not installed; run 'make quickstart' or 'pip install -e .' first"

num_gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())') || die "torch does not start; see above"
if [[ -z ${TOPOLOGY:-} ]]; then
    case $num_gpus in
        0) TOPOLOGY=cpu ;;
        1) TOPOLOGY=gpu ;;
        *) TOPOLOGY=ddp ;;
    esac
fi
file=$TOPOLOGY
[[ -f $file ]] || file=$root/configs/accelerate/$TOPOLOGY.yaml
[[ -f $file ]] || die "TOPOLOGY: there is no accelerate file '$TOPOLOGY', here or in $root/configs/accelerate"

processes=()
if ((num_gpus)) && ! grep -Eiq "^(distributed_type: *['\"]?NO\b|use_cpu: *['\"]?true)" "$file"; then
    processes=(--num_processes "$num_gpus")
fi

# Port 0 is any free one, so that two runs fit on one machine.
exec accelerate launch --config_file "$file" ${processes[@]+"${processes[@]}"} --main_process_port 0 \
    "$root/mlm_dist/train.py" "$@"
