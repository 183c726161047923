"""Commands of whoever keeps the data: what they hold, and what has been spent on them."""
