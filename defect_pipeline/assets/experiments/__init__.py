"""Hours, on demand: the tables of both papers on the user's own data."""
