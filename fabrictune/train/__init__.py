"""train.py: prefix trees, ranks, the loss, checkpoints, curves, and what a run will need."""
