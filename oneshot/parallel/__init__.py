"""More processes and more machines."""
