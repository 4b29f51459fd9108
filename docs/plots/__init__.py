"""What the figures of the site are drawn by, when it is built."""
