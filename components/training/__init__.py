"""What a site does with its own data: train, evaluate, and keep what is personal."""
