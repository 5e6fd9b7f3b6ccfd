"""The policy of reinforcement learning: what draws architectures, and the loss by which it learns."""
