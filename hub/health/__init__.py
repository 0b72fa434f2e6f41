"""How the hub is: open to anyone whether it lives and is ready, in detail for those who mend it."""
