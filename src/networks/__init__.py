"""Networks: torch only; an nn.Module never knows its loss. Any power-of-two image size from 32 to 256."""
