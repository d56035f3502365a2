"""StableSDG's adapted backbone, steered by the first system's drivers (paper B's future work)."""
