"""Latency: measured on a device, as tables of candidates and as samples of networks."""
