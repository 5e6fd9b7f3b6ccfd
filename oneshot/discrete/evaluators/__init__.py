"""Evaluators: by table, by inherited weights, by training."""
