"""Commands from data to a release, and for whoever is given one."""
