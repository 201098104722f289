"""The one door through which hospitals reach a federation: who asks, what they may ask for, and nothing else."""
