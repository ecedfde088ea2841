"""The engine under simulated time, processes, network and store: see `simulate`."""
