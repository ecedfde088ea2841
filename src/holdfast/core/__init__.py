"""The state machine of one run. Pure: no I/O, no clock, no chance, no user code."""
