"""One file a method, each a function of (denoise, y, operator, sigma_y, sigmas, noise)."""
