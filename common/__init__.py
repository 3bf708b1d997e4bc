"""Plumbing that all scripts share: nothing here is described in the paper."""
