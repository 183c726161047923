"""Private records while they are worked on: units, shards, decoded images."""
