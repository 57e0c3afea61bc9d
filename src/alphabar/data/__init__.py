"""Images: where they come from, what range they are in, and how they are split."""
