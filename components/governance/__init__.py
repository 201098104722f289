"""Who takes part in a federation, how it is known, and what it agreed to."""
