"""Readers of the files that publishers ship, and what they give: lists of members, arrays, records, and orders of images."""
