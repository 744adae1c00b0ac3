#!/usr/bin/env bash
# The checks and measurements for a machine with CUDA, in stages that each end within nine minutes:
#
#     benchmarks/gpu.sh test                     the tests that need a GPU
#     benchmarks/gpu.sh speed [ROWS [FOLDER]]    speed tables of the ops; ROWS is small or large (default)
#     benchmarks/gpu.sh steps [FOLDER]           speed table of whole training steps
#     benchmarks/gpu.sh study                    the design study (docs/design-study.md), each change from three
#                                                seeds; run it again to resume
#     benchmarks/gpu.sh family                   the recurrent family at an equal number of sequences
#     benchmarks/gpu.sh reach                    how far back its gradients reach; its tables and pictures
#     benchmarks/gpu.sh train NAME [ARGS]        a training of at most nine minutes; run it again to resume.
#                                                Of the shipped weights: train base --preset base --minutes 20
#                                                For the cross-entropy: train base-ce --preset base --minutes 20
#                                                    --loss cross-entropy --model.output sigmoid
#                                                20 minutes are three or four of these calls: each compiles anew
#     benchmarks/gpu.sh score NAME               a finished training's scores on all 10,000 test sequences, its
#                                                cross-entropy in the table of the field, its forecasts of 90 frames
#     benchmarks/gpu.sh ship NAME SHIPPED        the weights of a finished training, scored, under the name SHIPPED
#                                                (of train base: moving_mnist_base), and the tables of the field
#
# The tables are printed as Markdown and written to FOLDER (default: runs/gpu) as speed-ROWS.json and
# train_step.json. The numbers count only after the tests have passed.
#
# Run it in a checkout, in an environment with `pip install -e ".[train,test]"` and a C compiler, which triton needs
# for the fused kernels. MNIST is downloaded; without a network, put its four files into data/MNIST/raw.
set -euo pipefail
cd "$(dirname "$0")/.."
LIMIT=480 # seconds of training in a stage; the rest of a stage takes less than 60

machine() {
    python - <<'END'
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("gpu.sh: no CUDA device; it needs one")
from convlstm.ops.kernels import compiled_kernels

kernels = compiled_kernels("lstm", torch.device("cuda"), torch.float32)
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, kernels:", end=" ")
print("none compiled: is there triton and a C compiler?" if kernels is None else kernels.__name__)
END
}

limited() { # runs a program that saves its state and ends at a SIGTERM, which comes when the time is up
    local status=0
    timeout --foreground --preserve-status --signal=TERM "$LIMIT" "$@" || status=$?
    if [ "$status" = 143 ] || [ "$status" = 130 ]; then echo "run the same command again to resume"; fi
    return "$status"
}

name_of() { # checks that an argument is a name
    case "$1" in
    '' | -*)
        echo "gpu.sh: '$1' is no name; give one, such as base (see benchmarks/gpu.sh)" >&2
        exit 2
        ;;
    esac
    echo "$1"
}

finished() {
    if [ ! -f "runs/$1/rollout.gif" ]; then
        echo "gpu.sh: runs/$1 is no finished run; run benchmarks/gpu.sh train $1" >&2
        exit 2
    fi
}

case "${1:-}" in
test)
    machine
    python -m pytest -m gpu
    ;;
speed)
    rows=${2:-large} folder=${3:-runs/gpu}
    machine
    mkdir -p "$folder"
    python benchmarks/speed.py --device cuda --rows "$rows" --json "$folder/speed-$rows.json"
    ;;
steps)
    folder=${2:-runs/gpu}
    machine
    mkdir -p "$folder"
    python benchmarks/train_step.py --device cuda --json "$folder/train_step.json"
    ;;
study | family)
    # Small networks leave most of a GPU idle: several rows at a time.
    machine
    if [ "$1" = study ]; then
        limited python studies/design_study.py train --jobs 6 --seeds 3
        python studies/design_study.py show
    else
        limited python studies/family.py train --jobs 6
    fi
    ;;
reach)
    machine
    for part in gradients recall show; do python studies/family.py "$part"; done
    ;;
train)
    name=$(name_of "${2:-}")
    shift 2
    machine
    if [ -n "$(ls "runs/$name/states" 2> /dev/null)" ]; then
        echo "runs/$name is resumed with the settings that it began with"
        set -- --resume "runs/$name"
    else
        set -- --name "$name" "$@"
    fi
    limited python train.py --device cuda "$@"
    ;;
score)
    name=$(name_of "${2:-}")
    machine
    finished "$name"
    clips=data/moving-mnist-test.npy
    [ -f "$clips" ] || python -m datasets write "$clips" --digits mnist --split test --sequences 10000
    python -m convlstm evaluate "runs/$name" "$clips" --device cuda --json "runs/$name/evaluation.json"
    if grep -q '"output": "sigmoid"' "runs/$name/config.json"; then python studies/field.py --checkpoints "runs/$name"; fi
    set -- --sharpen 3  # for networks that read their own predictions
    if grep -q '"network": "EncoderForecaster"' "runs/$name/config.json"; then set --; fi
    python studies/beyond.py "runs/$name" --digits mnist --device cuda "$@"
    ;;
ship)
    name=$(name_of "${2:-}")
    shipped=$(name_of "${3:-}")
    machine
    python studies/ship.py "runs/$name" "$shipped" --device cuda
    python studies/field.py --speed --device cuda --write
    ;;
*)
    if [ -n "${1:-}" ]; then echo "gpu.sh: no stage is called $1" >&2; fi
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
