"""Recipes that make the small models embedded in `flowse/pretrained`."""
