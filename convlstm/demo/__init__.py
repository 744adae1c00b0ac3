"""A page on which you draw shapes, push them, and watch a network forecast their flight."""

from convlstm.demo.page import launch

__all__ = ["launch"]
