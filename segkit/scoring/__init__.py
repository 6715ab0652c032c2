"""What evaluate.py tells its story with: what is scored, on which data, and what is written."""
