"""Networks as graphs, and the morphisms that change them."""
