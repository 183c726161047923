"""What noise costs: ε by two accountants, and the noise for an ε."""
