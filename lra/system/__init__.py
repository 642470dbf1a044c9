"""The machine and this process.

Owns: errors for the user, progress lines and clocks, signals and exit codes, CPU cores, devices.
Must not know: the other rooms; nothing here is about tasks, models or runs.
"""
