"""What a drafter learns and from what: losses, targets, choice of positions. Pure: tensors in, tensors out."""
