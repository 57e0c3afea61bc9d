"""What all other packages use: types, seeds, files, the run folder, processes, options."""
