"""Convolutional recurrent networks for PyTorch, and the video forecasters built from them.

Cells and layers with the interface of torch.nn.RNN, LSTM and GRU (`ConvLSTM(1, 64, kernel_size=3)`), the
networks that forecast video with them, their rollouts, their files, and the scores of the field.
"""

from convlstm.core import __version__
from convlstm.core.registry import register_model
from convlstm.evaluation import evaluate, metrics
from convlstm.exporters import export
from convlstm.hub.pretrained import create_model, from_pretrained, list_models
from convlstm.hub.transfer import load_weights
from convlstm.importers import from_torch, import_checkpoint
from convlstm.models.encoder_forecaster import EncoderForecaster, EncoderForecasterConfig
from convlstm.models.forecaster import Forecaster, ForecasterConfig, ForecasterState
from convlstm.models.fully_connected import FullyConnectedForecaster, FullyConnectedForecasterConfig
from convlstm.models.imported import ImportedNetwork
from convlstm.models.rollouts import rollout, stream
from convlstm.models.stacked import StackedForecaster, StackedForecasterConfig
from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell, SpatiotemporalLSTMCell
from convlstm.nn.layers import ConvGRU, ConvLSTM, ConvRNN

__all__ = [
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
    "SpatiotemporalLSTMCell",
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
]
