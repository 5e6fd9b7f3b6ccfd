"""Counts: parameters, multiply-accumulates and memory, exact for every architecture."""
