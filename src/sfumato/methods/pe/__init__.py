"""Private Evolution: public candidates that private images vote for; ``method`` is the start."""
