"""The search loops, written once, and the samplers they train with."""
