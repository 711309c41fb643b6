"""Prediction over many images: what is listed, written in parts, joined and resumed."""
