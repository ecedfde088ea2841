"""Carries effects out: the only layer with asyncio tasks and clocks."""
