"""The names that the library offers, pinned: a name that goes or comes is a decision, not an accident."""

from importlib.metadata import version

import convlstm

CELLS_AND_LAYERS = "ConvGRU ConvGRUCell ConvLSTM ConvLSTMCell ConvRNN ConvRNNCell SpatiotemporalLSTMCell"
NETWORKS = """
    EncoderForecaster EncoderForecasterConfig Forecaster ForecasterConfig ForecasterState
    FullyConnectedForecaster FullyConnectedForecasterConfig ImportedNetwork
    StackedForecaster StackedForecasterConfig
"""
FUNCTIONS = """
    create_model evaluate export from_pretrained from_torch import_checkpoint list_models load_weights
    register_model rollout stream
"""
OTHERS = "__version__ metrics"


def test_the_public_names() -> None:
    assert convlstm.__all__ == sorted(convlstm.__all__)
    assert convlstm.__all__ == sorted(f"{CELLS_AND_LAYERS} {NETWORKS} {FUNCTIONS} {OTHERS}".split())
    assert all(getattr(convlstm, name).__doc__ for name in convlstm.__all__)
    assert convlstm.__version__ == version("convlstm")
