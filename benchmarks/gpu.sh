#!/usr/bin/env bash
# What there is to check and to measure on a CUDA machine, in stages that each end within nine minutes:
#
#     benchmarks/gpu.sh test                     the tests that need a GPU
#     benchmarks/gpu.sh speed [ROWS [FOLDER]]    the speed tables: of the ops, then of whole training steps
#     benchmarks/gpu.sh study                    the design study (benchmarks/design_study.md); again, to go on
#     benchmarks/gpu.sh family                   the recurrent family at an equal number of sequences
#     benchmarks/gpu.sh reach                    how far back its gradients reach; its tables and pictures
#     benchmarks/gpu.sh train NAME [ARGS]        a training of nine minutes at most; again, to go on with it. Of the
#                                                shipped weights: train base --preset base --minutes 20
#                                                of the cross-entropy: train base-ce --preset base --minutes 20
#                                                    --loss cross-entropy --model.output sigmoid
#     benchmarks/gpu.sh score NAME               a finished training's scores on all 10,000 test sequences, in both
#                                                protocols, and its forecasts of 90 frames
#
# ROWS is small, large or all (default: all). The tables are printed as Markdown; FOLDER (default: runs/gpu) gets
# them too, as speed.json and train_step.json. Numbers mean something only after the tests have passed.
#
# Run in a checkout, in an environment with `pip install -e ".[train,test]"` and a C compiler, which triton needs
# for the fused kernels. MNIST is downloaded; without a network, put its four files into data/MNIST/raw.
set -euo pipefail
cd "$(dirname "$0")/.."
LIMIT=480 # seconds of training in a stage; what is before and after them takes less than 60

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

limited() { # runs a program that ends by itself when a SIGTERM says that the time is up, with its state saved
    local status=0
    timeout --foreground --preserve-status --signal=TERM "$LIMIT" "$@" || status=$?
    if [ "$status" = 143 ] || [ "$status" = 130 ]; then echo "to be continued by the same command"; fi
    return "$status"
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
study | family)
    # Small networks leave most of a GPU idle: several rows at a time.
    script=benchmarks/$([ "$1" = study ] && echo design_study || echo family).py
    machine
    limited python "$script" train --jobs 6
    if [ "$1" = study ]; then python "$script" show; fi
    ;;
reach)
    machine
    for part in gradients recall show; do python benchmarks/family.py "$part"; done
    ;;
train)
    name=${2:?the name of the run}
    shift 2
    machine
    if [ -n "$(ls "runs/$name/states" 2> /dev/null)" ]; then
        set -- --resume "runs/$name"
    else
        set -- --name "$name" "$@"
    fi
    limited python train.py --device cuda "$@"
    ;;
score)
    name=${2:?the name of the run}
    machine
    clips=data/moving-mnist-test.npy
    [ -f "$clips" ] || python -m datasets write "$clips" --digits mnist --split test --sequences 10000
    python -m convlstm evaluate "runs/$name" "$clips" --device cuda
    python -m convlstm evaluate "runs/$name" "$clips" --device cuda --protocol openstl
    python benchmarks/beyond.py "runs/$name" --digits mnist --folder "runs/$name/beyond"
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
