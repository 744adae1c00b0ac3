"""The command line: one file per command."""

CHECKPOINT = (
    "the network: a directory that train.py or save_pretrained wrote, a name with shipped weights (see "
    "python -m convlstm list), or hf://OWNER/NAME on the Hugging Face Hub"
)
"""Help for the argument that names a network."""
