"""Training: recipes, data, objective and loop. Nothing outside this folder and its command imports it."""
