"""What a training run needs and a reader of train.py need not see.

Hardware, schedule, the run's directory and its states, several processes, signals, and what goes wrong.
"""

from convlstm.training.curriculum import SMALL_SHARE, Curriculum
from convlstm.training.directory import mend, new_path
from convlstm.training.hardware import (
    Stopwatch,
    autocast,
    choose_bfloat16,
    choose_device,
    describe,
    has_bfloat16,
    least_seconds,
    memory_peak,
    predictor,
    set_recompute,
)
from convlstm.training.losses import Loss, frame_loss
from convlstm.training.minutes import LEAST_STEPS, Allowance
from convlstm.training.optimizers import Muon, MuonAdamW, OptimizerName, make_optimizer
from convlstm.training.run import Progress, RunDirectory, open_run
from convlstm.training.schedule import ends_part, lr_factor
from convlstm.training.scoring import show, test, validate
from convlstm.training.states import load_state, save_state, states_of
from convlstm.training.stopping import Stopped, Stopping, exit_status
from convlstm.training.trouble import PATIENCE, explained_memory, gradient_norms, skip_step, where_it_began
from convlstm.training.world import World, join

__all__ = [
    "LEAST_STEPS",
    "PATIENCE",
    "SMALL_SHARE",
    "Allowance",
    "Curriculum",
    "Loss",
    "Muon",
    "MuonAdamW",
    "OptimizerName",
    "Progress",
    "RunDirectory",
    "Stopped",
    "Stopping",
    "Stopwatch",
    "World",
    "autocast",
    "choose_bfloat16",
    "choose_device",
    "describe",
    "ends_part",
    "exit_status",
    "explained_memory",
    "frame_loss",
    "gradient_norms",
    "has_bfloat16",
    "join",
    "least_seconds",
    "load_state",
    "lr_factor",
    "make_optimizer",
    "memory_peak",
    "mend",
    "new_path",
    "open_run",
    "predictor",
    "save_state",
    "set_recompute",
    "show",
    "skip_step",
    "states_of",
    "test",
    "validate",
    "where_it_began",
]
