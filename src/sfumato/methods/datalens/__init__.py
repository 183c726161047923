"""DataLens: teachers vote with compressed gradients (arXiv 2103.11109)."""
