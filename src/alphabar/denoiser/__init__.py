"""Networks, what turns them into denoisers, closed-form denoisers, and wrappers round any of them."""
