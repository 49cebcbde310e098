"""merge.py: an adapter applied to a model's files, a few MB at a time."""
