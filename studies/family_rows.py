"""The recurrent family: the networks that studies/family.py compares."""

from studies.studies import Row, Study

FULLY = ("--preset", "fully-connected")
CONVOLUTIONAL = ("--model.kernel-size", "3")
STUDY = Study(
    rows=(
        Row("fc-rnn", "FC-RNN", (*FULLY, "--model.cell", "rnn", "--lr", "1e-3"), 2),
        Row("fc-gru", "FC-GRU", (*FULLY, "--model.cell", "gru", "--lr", "1e-3"), 3),
        Row("fc-lstm", "FC-LSTM", (*FULLY, "--model.cell", "lstm", "--lr", "1e-3"), 4),
        Row("conv-rnn", "ConvRNN", (*CONVOLUTIONAL, "--model.cell", "rnn", "--lr", "4e-3"), 5),
        Row("conv-gru", "ConvGRU", (*CONVOLUTIONAL, "--model.cell", "gru", "--lr", "4e-3"), 1),
        Row("conv-lstm", "ConvLSTM", (*CONVOLUTIONAL, "--model.cell", "lstm", "--lr", "4e-3"), 0),
        Row(
            "conv-lstm-peepholes",
            "ConvLSTM, peepholes",
            (*CONVOLUTIONAL, "--model.cell", "lstm", "--model.peephole", "channel", "--lr", "4e-3"),
            6,
        ),
    ),
    common=(
        *("--data.digits", "mnist", "--optimizer", "adamw", "--validations", "5"),
        *("--validation-sequences", "1000", "--test-sequences", "1000"),
    ),
)
