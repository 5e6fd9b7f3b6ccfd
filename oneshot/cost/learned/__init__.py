"""Costs learned from measurements."""
