"""What DP-MERF and DP-NTK compute: features of pixels, and a generator matched to their means."""
