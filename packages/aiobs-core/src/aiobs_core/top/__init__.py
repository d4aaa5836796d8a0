"""`aiobs top`: what runs now, by model."""
