"""Measurements of glide_fast; how to run them and how to read what they say is in README.md beside this file."""
