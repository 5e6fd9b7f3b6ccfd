"""Fronts: what no other network beats, how much a front is worth, and which network to take."""
