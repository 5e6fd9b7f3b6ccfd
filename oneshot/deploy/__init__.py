"""What leaves: networks as files that need nothing of the search."""
