"""Forecasters, their rollouts, and networks that come from other projects."""
