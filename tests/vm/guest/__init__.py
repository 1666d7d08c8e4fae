"""What runs inside the virtual machine: the product under a real kernel, and the truth it is held to."""
