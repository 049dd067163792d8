"""What methods read of proxies and documents, computed only where it is declared."""
