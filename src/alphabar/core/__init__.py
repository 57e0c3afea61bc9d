"""What everything else stands on: types, seeds, files, the run folder, processes."""
