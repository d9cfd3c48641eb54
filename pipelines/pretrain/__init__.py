"""The recipes that train the small models embedded in `flowse/pretrained`."""
