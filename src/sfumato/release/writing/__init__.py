"""Writing a release: images, model, card and certificate, whole or not at all."""
