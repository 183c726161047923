"""Secret randomness: discrete Gaussian noise, keys and Poisson samples."""
