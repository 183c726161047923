"""Bytes to pixels: images of any file type as arrays of one public shape."""
