"""The names that the library offers, pinned: a name that goes or comes is a decision, not an accident."""

import convlstm


def test_the_public_names() -> None:
    assert sorted(convlstm.__all__) == [
        "ConvGRU",
        "ConvGRUCell",
        "ConvLSTM",
        "ConvLSTMCell",
        "ConvRNN",
        "ConvRNNCell",
        "EncoderForecaster",
        "EncoderForecasterConfig",
        "Forecaster",
        "ForecasterState",
        "FullyConnectedForecaster",
        "FullyConnectedForecasterConfig",
        "ImportedNetwork",
        "StackedForecaster",
        "StackedForecasterConfig",
        "create_model",
        "evaluate",
        "export",
        "from_pretrained",
        "from_torch",
        "import_checkpoint",
        "list_models",
        "load_checkpoint",
        "load_weights",
        "metrics",
        "rollout",
        "save_checkpoint",
        "stream",
    ]
    for name in convlstm.__all__:
        assert getattr(convlstm, name).__doc__
