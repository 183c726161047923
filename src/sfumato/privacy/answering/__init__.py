"""How the curator answers each query: read, clip, add up, add noise, store."""
