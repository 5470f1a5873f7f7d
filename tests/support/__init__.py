"""Helpers that several tests share: projects, small data, servers."""
