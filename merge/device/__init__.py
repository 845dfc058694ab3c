"""Merges on a GPU: slices go up, are computed and come back at the same time."""

from graftwork.merge.slices.slices import GRAIN

SLOTS = 3
"""Slices that a thread has under way: one is read, one is computed, one comes back and is written."""
LONGEST_SLICE = 16 * GRAIN
"""Elements of a slice on a device: a million, so that copying and computing take longer than asking for it."""
