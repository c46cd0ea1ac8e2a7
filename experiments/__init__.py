"""Experiments beside the paper companion."""
