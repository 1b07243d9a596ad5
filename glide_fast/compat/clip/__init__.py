"""Stands for ``glide_text2im.clip``."""
