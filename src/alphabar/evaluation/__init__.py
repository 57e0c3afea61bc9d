"""Scores: features of images, distances between them, and records that carry their protocol."""
