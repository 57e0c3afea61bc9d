"""Noise: schedules, grids, densities and noising."""
