"""DP-GAN: a discriminator trained by DP-SGD (arXiv 1802.06739)."""
