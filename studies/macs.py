"""How many products of weights a forecast takes: what the tables of networks call MACs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from convlstm.hub.registry import build
from convlstm.models.forecaster import Forecaster


def macs(model: Forecaster, height: int, width: int, context: int = 1, horizon: int = 1) -> int:
    """Return the products of one forecast; pointwise ones, as of gates, are not counted.

    A network that reads its own predictions takes `context + horizon - 1` steps, each with as many.

    Args:
        model: whose config is counted; its weights are left alone.
        height: of a frame, in pixels.
        width: of a frame.
        context: frames given.
        horizon: frames forecast.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        frames = torch.empty(1, context, model.config.channels, height, width)
        build(model.config)(frames, horizon)
    return counter.get_total_flops() // 2  # a product and a sum each
