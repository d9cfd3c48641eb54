"""From clean speech to noisy, reverberant mixtures: draw a recipe, then render it."""
