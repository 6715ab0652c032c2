"""What train.py tells its story with: pieces of one training run that read its configuration."""
