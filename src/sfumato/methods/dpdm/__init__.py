"""DPDM: a diffusion model trained by DP-SGD (arXiv 2210.09929)."""
