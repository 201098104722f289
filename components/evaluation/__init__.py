"""Evaluation: what sites share about scores, and the metrics, figures and report made of it."""
