"""The whole engine on a virtual clock, a faulty store and a seed."""
