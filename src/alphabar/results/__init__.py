"""What runs, sweeps and experiments contain, as values."""
