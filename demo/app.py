"""A Space of Hugging Face: draw shapes, and watch a network forecast their flight."""

from convlstm.demo import launch

launch("moving_mnist_small")
