"""The machine and the process: errors for the user, progress, signals, cores, devices."""
