"""A run: its folder, the driver that fills it, its rows, and the code that opens a judge for it."""
