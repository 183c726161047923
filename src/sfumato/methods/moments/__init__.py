"""Moments: a Gaussian for each class, from one noisy sum."""
