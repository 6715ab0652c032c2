"""What a run computes on: device and precision, processes, signals, memory, the console."""
