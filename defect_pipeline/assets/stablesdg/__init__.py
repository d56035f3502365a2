"""StableSDG, the second system (paper B)."""
