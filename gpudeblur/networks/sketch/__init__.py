"""Sketch synthesis of [Lin2020]: network and training."""
