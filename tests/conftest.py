"""Settings that every test shares."""

import segkit  # isort: skip  # noqa: F401  (first: sets OMP_WAIT_POLICY before torch is imported)

import torch

# One thread: the suite shares its cores with loader workers, and the thread count changes bits.
torch.set_num_threads(1)
