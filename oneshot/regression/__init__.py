"""Regression: encodings of architectures, models, and scores of how well they predict."""
