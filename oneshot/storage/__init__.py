"""Files: written whole, read strictly, locked while a run writes them."""
