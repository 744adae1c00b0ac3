"""The names that the library offers, pinned: a name that goes or comes is a decision, not an accident."""

from importlib.metadata import version

import convlstm


def test_the_public_names() -> None:
    assert convlstm.__all__ == sorted(convlstm.__all__)
    assert set(convlstm.__all__) == {
        "ConvGRU",
        "ConvGRUCell",
        "ConvLSTM",
        "ConvLSTMCell",
        "ConvRNN",
        "ConvRNNCell",
        "EncoderForecaster",
        "EncoderForecasterConfig",
        "Forecaster",
        "ForecasterConfig",
        "ForecasterState",
        "FullyConnectedForecaster",
        "FullyConnectedForecasterConfig",
        "ImportedNetwork",
        "StackedForecaster",
        "StackedForecasterConfig",
        "__version__",
        "create_model",
        "evaluate",
        "export",
        "from_pretrained",
        "from_torch",
        "import_checkpoint",
        "list_models",
        "load_weights",
        "metrics",
        "register_model",
        "rollout",
        "stream",
    }
    assert all(getattr(convlstm, name).__doc__ for name in convlstm.__all__)
    assert convlstm.__version__ == version("convlstm")
