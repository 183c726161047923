"""Methods whose release is a private classifier instead of images."""
