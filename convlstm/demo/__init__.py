"""A page on which one draws shapes, pushes them, and watches a network forecast their flight."""

from convlstm.demo.page import launch

__all__ = ["launch"]
