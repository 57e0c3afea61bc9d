"""Runs and results as pages to look at: one HTML file each, with everything in it."""
