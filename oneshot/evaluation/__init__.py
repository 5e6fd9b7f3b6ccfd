"""How good networks are, with the weights they share or their own."""
