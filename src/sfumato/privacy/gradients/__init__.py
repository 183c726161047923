"""Gradients of single units: clipped and added up, or compressed to votes."""
