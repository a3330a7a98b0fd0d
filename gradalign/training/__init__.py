"""Training: data, augmentation and the loop that made the models in the package."""
