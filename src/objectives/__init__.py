"""What is minimized: pure functions and small objects that return one value per image, in nats or logits."""
