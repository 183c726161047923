"""Commands for research: methods, their public preparation, measurements and attacks."""
