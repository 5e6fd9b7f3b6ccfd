"""Training of one network, and what every training shares: tasks, checks, exact resuming."""
