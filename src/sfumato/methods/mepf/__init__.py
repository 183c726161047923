"""DP-MEPF: a generator matched to a once-privatised mean embedding (arXiv 2205.12900)."""
