"""DPAF: features aggregated in the forward pass (arXiv 2304.12185)."""
