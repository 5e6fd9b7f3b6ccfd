"""One strategy, or one family of a paper, in each file. ``oneshot.discrete`` exports them."""
