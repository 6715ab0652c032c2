"""What lies on disk of a run: checkpoints, the folder and its lock, the log of its values."""
