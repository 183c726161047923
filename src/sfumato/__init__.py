"""Sfumato: synthetic images from private ones, with a proven differential-privacy guarantee."""
