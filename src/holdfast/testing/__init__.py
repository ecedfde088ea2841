"""Shipped for tests of users and of the project itself: a store that fails on purpose."""
