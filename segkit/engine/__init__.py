"""What repeats: the loop, checkpoints, precision, processes, exported files."""
