"""Where stored models are read from: folders, the zoo, the Hub, locks."""
