"""Files: written completely or not at all, read strictly, locked while a run writes them."""
