"""Public images and denoisers, guided by one private sum; no private gradient is asked for."""
